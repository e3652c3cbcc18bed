-- husk: the guest benchmark kit: statements for sqlite: inserts, an index, joins, updates
PRAGMA journal_mode = MEMORY;
CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT, amount INTEGER, part REAL);
BEGIN;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ROWS)
INSERT INTO item SELECT i, 'name' || (i * 7919 % 10007), i * 31 % 1009, i / 3.0 FROM n;
COMMIT;
CREATE INDEX by_name ON item(name);
SELECT count(*), sum(amount), round(sum(part), 3) FROM item WHERE name LIKE 'name1%';
SELECT amount % 10 AS kind, count(*), max(name) FROM item GROUP BY kind ORDER BY kind;
SELECT count(*) FROM item a JOIN item b ON a.name = b.name AND a.id < b.id;
UPDATE item SET amount = amount + 1 WHERE id % 3 = 0;
DELETE FROM item WHERE id % 7 = 0;
SELECT sum(amount), count(*) FROM item;
SELECT name FROM item ORDER BY part DESC, name LIMIT 3;
