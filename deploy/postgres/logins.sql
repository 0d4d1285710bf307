-- A login for each of Postbound's group roles, with the password in /run/secrets/<role>-password. Safe to run again: then
-- passwords are those of the files. psql, as a login that may create roles, after `postbound migrate`.
\set ON_ERROR_STOP on
\set relay `cat /run/secrets/relay-password`
\set worker `cat /run/secrets/worker-password`
\set ingress `cat /run/secrets/ingress-password`
\set operator `cat /run/secrets/operator-password`
\set app `cat /run/secrets/app-password`
\set receiver `cat /run/secrets/receiver-password`

begin;
set local client_min_messages = warning;
-- A password in a statement would end up in the server's log where statements are logged. Superusers alone may switch that off.
select set_config(setting, value, true) from (values ('log_statement', 'none'), ('log_min_duration_statement', '-1')) as off (setting, value)
where (select rolsuper from pg_roles where rolname = current_user) \g /dev/null

create temporary table login (name text, password text, member_of text) on commit drop;
insert into login values
    ('postbound_relay_login', :'relay', 'postbound_relay'),
    ('postbound_worker_login', :'worker', 'postbound_worker'),
    ('postbound_ingress_login', :'ingress', 'postbound_ingress'),
    ('postbound_operator_login', :'operator', 'postbound_operator'),
    ('app', :'app', 'postbound_producer'),
    ('receiver', :'receiver', null);

select format('create role %I login', name) from login
where not exists (select from pg_roles where rolname = name) \gexec
select format('alter role %I password %L', name, password) from login \gexec
select format('grant %I to %I', member_of, name) from login where member_of is not null \gexec
-- The reference receivers make a schema of their own.
select format('grant create on database %I to receiver', current_database()) \gexec
commit;
