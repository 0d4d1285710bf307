-- The example service's own table. The examples change a user here and tell Postbound in the same transaction.
create table app_user (
    id        text primary key,
    email     text not null,
    name      text not null,
    is_active boolean not null default true
);
grant select, insert, update on app_user to postbound_producer;
