-- A login for each of Postbound's group roles, with the password in $SECRETS/<role>-password (/run/secrets); one whose file is
-- not there is left as it is. Safe to run again: then passwords are those of the files. With psql, after `postbound migrate`, as
-- the login that ran it.
\set ON_ERROR_STOP on
\set relay `cat "${SECRETS:-/run/secrets}/relay-password" 2> /dev/null`
\set worker `cat "${SECRETS:-/run/secrets}/worker-password" 2> /dev/null`
\set ingress `cat "${SECRETS:-/run/secrets}/ingress-password" 2> /dev/null`
\set operator `cat "${SECRETS:-/run/secrets}/operator-password" 2> /dev/null`
\set app `cat "${SECRETS:-/run/secrets}/app-password" 2> /dev/null`
\set receiver `cat "${SECRETS:-/run/secrets}/receiver-password" 2> /dev/null`

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
delete from login where password = '';

select format('create role %I login', name) from login
where not exists (select from pg_roles where rolname = name) \gexec
select format('alter role %I password %L', name, password) from login \gexec
select format('grant %I to %I', member_of, name) from login where member_of is not null \gexec
-- The reference receivers make a schema of their own.
select format('grant create on database %I to receiver', current_database()) from login where name = 'receiver' \gexec
select coalesce(string_agg(name, ', ' order by name), 'none: no file with a password was found') as "logins as in the files" from login;
commit;
