CREATE TABLE ships (name text, strakes int); INSERT INTO ships VALUES ('Vasa', 23);
