<?php
declare(strict_types=1);

final class Greeter
{
    public function __construct(private PDO $db) {}

    public function greet(string $name): string
    {
        return mb_strtoupper($this->db->query("SELECT 'hello ' || " . $this->db->quote($name))->fetchColumn());
    }
}
