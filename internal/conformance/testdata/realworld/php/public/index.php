<?php
require __DIR__ . '/../src/Greeter.php';
echo (new Greeter(new PDO('sqlite::memory:')))->greet('dépôt'), ' ', ini_get('memory_limit'), "\n";
