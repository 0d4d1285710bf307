//! The schema explains itself.

use postbound_tests::TestDatabase;

/// Rows a catalog query finds wrong; partitions repeat their parent and are left out.
async fn check_none(sql: &'static str) {
    let database = TestDatabase::new().await;
    let wrong: Vec<String> = sqlx::query_scalar(sql).fetch_all(database.superuser()).await.unwrap();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[tokio::test]
async fn every_table_and_column_has_a_comment() {
    check_none(
        "select format('%s.%s', c.relname, coalesce(a.attname, '(table)'))
         from pg_class as c
         left join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
         where c.relnamespace = 'postbound'::regnamespace and c.relkind in ('r', 'p', 'v', 'S') and not c.relispartition
           and c.relname <> 'migrations'
           -- The sequence of an identity column is the column's.
           and not exists (select from pg_depend as d where d.objid = c.oid and d.deptype = 'i' and c.relkind = 'S')
           and (obj_description(c.oid, 'pg_class') is null
                or c.relkind <> 'S' and col_description(c.oid, a.attnum) is null)",
    )
    .await;
}

#[tokio::test]
async fn every_function_has_a_comment_and_a_pinned_search_path() {
    check_none(
        "select p.oid::regprocedure::text from pg_proc as p
         where p.pronamespace = 'postbound'::regnamespace
           and (obj_description(p.oid, 'pg_proc') is null
                -- The body of a \"return\" function was bound to its names when it was made.
                or p.prosqlbody is null and not coalesce(p.proconfig @> array['search_path=pg_catalog, pg_temp'], false))",
    )
    .await;
}

#[tokio::test]
async fn every_constraint_and_index_bears_a_name_of_our_own() {
    check_none(
        "select format('%s.%s', c.relname, k.conname)
         from pg_constraint as k join pg_class as c on c.oid = k.conrelid
         where k.connamespace = 'postbound'::regnamespace and not c.relispartition and c.relname <> 'migrations'
           and k.conname ~ '_(check[0-9]*|pkey|fkey|key|excl)$'
         union all
         select c.relname::text from pg_index as i join pg_class as c on c.oid = i.indexrelid
         where c.relnamespace = 'postbound'::regnamespace and not c.relispartition and c.relname !~ '^migrations'
           and c.relname ~ '_(idx[0-9]*|pkey)$' and not exists (
               select from pg_inherits as h where h.inhrelid = i.indexrelid)",
    )
    .await;
}
