//! Both databases have the same tables, columns, keys, indexes and triggers, by the same names.

use super::engine::Engine;
use super::*;
use std::collections::BTreeSet;

/// All that there is of a kind, each as a line.
async fn lines(world: &World, sql: &'static str) -> BTreeSet<String> {
    let rows = query(sql).fetch_all(&world.store.0.reader).await.unwrap();
    let lines: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
    assert!(!lines.is_empty());
    lines
}

const COLUMNS: [&str; 2] = [
    "SELECT t.name || '.' || c.name || ' ' || c.type || CASE WHEN c.\"notnull\" = 1 THEN ' NOT NULL' ELSE '' END
     FROM sqlite_schema t JOIN pragma_table_info(t.name) c
     WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite_%' AND t.name NOT LIKE '\\_%' ESCAPE '\\'",
    "SELECT table_name || '.' || column_name || ' '
        || CASE data_type WHEN 'bigint' THEN 'INTEGER' WHEN 'double precision' THEN 'REAL' WHEN 'bytea' THEN 'BLOB'
            WHEN 'text' THEN CASE collation_name WHEN 'C' THEN 'TEXT' ELSE 'TEXT of another order' END
            ELSE data_type END
        || CASE is_nullable WHEN 'NO' THEN ' NOT NULL' ELSE '' END
     FROM information_schema.columns
     WHERE table_schema = 'public' AND table_name NOT LIKE '\\_%' AND column_name <> 'rowid'",
];

/// What is unique: keys and indexes, by their columns.
const UNIQUE: [&str; 2] = [
    "SELECT t.name || ' ' || group_concat(coalesce(c.name, '()')) || CASE WHEN i.partial THEN ' partial' ELSE '' END
     FROM sqlite_schema t JOIN pragma_index_list(t.name) i JOIN pragma_index_info(i.name) c
     WHERE t.type = 'table' AND i.\"unique\" AND t.name NOT LIKE '\\_%' ESCAPE '\\' GROUP BY t.name, i.name
     UNION
     SELECT t.name || ' ' || c.name FROM sqlite_schema t JOIN pragma_table_info(t.name) c
     WHERE t.type = 'table' AND c.pk = 1 AND t.name NOT LIKE '\\_%' ESCAPE '\\'
        AND 1 = (SELECT count(*) FROM pragma_table_info(t.name) k WHERE k.pk > 0)",
    "SELECT t.relname || ' ' || string_agg(coalesce(a.attname, '()'), ',' ORDER BY k.place)
        || CASE WHEN i.indpred IS NOT NULL THEN ' partial' ELSE '' END
     FROM pg_index i JOIN pg_class t ON t.oid = i.indrelid
     CROSS JOIN unnest(i.indkey) WITH ORDINALITY AS k (number, place)
     LEFT JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = k.number
     WHERE i.indisunique AND t.relnamespace = 'public'::regnamespace AND t.relname NOT LIKE '\\_%'
     GROUP BY t.relname, i.indexrelid, i.indpred",
];

const FOREIGN: [&str; 2] = [
    "SELECT t.name || ' ' || group_concat(k.\"from\") || ' to ' || k.\"table\" || ' ' || group_concat(k.\"to\")
     FROM sqlite_schema t JOIN pragma_foreign_key_list(t.name) k WHERE t.type = 'table' GROUP BY t.name, k.id, k.\"table\"",
    "SELECT c.conrelid::regclass || ' ' || string_agg(a.attname, ',' ORDER BY k.place) || ' to ' || c.confrelid::regclass
        || ' ' || string_agg(b.attname, ',' ORDER BY k.place)
     FROM pg_constraint c CROSS JOIN unnest(c.conkey, c.confkey) WITH ORDINALITY AS k (own, other, place)
     JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.own
     JOIN pg_attribute b ON b.attrelid = c.confrelid AND b.attnum = k.other
     WHERE c.contype = 'f' GROUP BY c.oid, c.conrelid, c.confrelid",
];

/// Those that have a name of ours.
const INDEXES: [&str; 2] = [
    "SELECT name FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL",
    "SELECT i.indexrelid::regclass::text FROM pg_index i JOIN pg_class t ON t.oid = i.indrelid
     WHERE t.relnamespace = 'public'::regnamespace AND t.relname NOT LIKE '\\_%'
        AND NOT EXISTS (SELECT 1 FROM pg_constraint c WHERE c.conindid = i.indexrelid AND c.contype IN ('p', 'u'))",
];

/// (SQLite has no TRUNCATE that would need one.)
const TRIGGERS: [&str; 2] = [
    "SELECT tbl_name || ' ' || name FROM sqlite_schema WHERE type = 'trigger'",
    "SELECT tgrelid::regclass || ' ' || tgname FROM pg_trigger WHERE NOT tgisinternal AND tgname NOT LIKE '%\\_no\\_truncate'",
];

#[tokio::test]
async fn both_databases_have_the_same_schema() {
    let Some(engine) = Engine::postgres() else { return eprintln!("skipped: PostgreSQL is not installed") };
    let (sqlite, postgres) = (World::on(Engine::Sqlite).await, World::on(engine).await);
    for [here, there] in [COLUMNS, UNIQUE, FOREIGN, INDEXES, TRIGGERS] {
        let (here, there) = (lines(&sqlite, here).await, lines(&postgres, there).await);
        let missing: Vec<_> = here.difference(&there).collect();
        let other: Vec<_> = there.difference(&here).collect();
        assert!(missing.is_empty() && other.is_empty(), "PostgreSQL lacks {missing:#?} and has {other:#?}");
    }
    let names = |all: sqlx::migrate::Migrator| -> Vec<(i64, String)> {
        all.iter().map(|one| (one.version, one.description.to_string())).collect()
    };
    assert_eq!(names(crate::db::sqlite_migrations()), names(crate::db::postgres_migrations()));
}
