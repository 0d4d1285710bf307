-- RabbitMQ puts messages that are given back behind those given back before (quorum queues, 3.10 and 4.x). A consumer that
-- takes fewer of them than there are, and dies, leaves them in another order. So whoever consumes a partition takes as many
-- messages ahead as anybody may have given back.

create table postbound.partition_prefetch (
    target     text collate "C" not null,
    generation integer not null,
    partition  integer not null,
    messages   integer not null,
    constraint partition_prefetch_pk primary key (target, generation, partition),
    constraint partition_prefetch_of_target foreign key (target) references postbound.target (name),
    constraint partition_prefetch_partition_bounded check (partition between 0 and 255),
    constraint partition_prefetch_messages_bounded check (messages between 1 and 65535)
);
comment on table postbound.partition_prefetch is 'How many messages the consumers of a partition''s live queue took ahead at most, since it was last seen to be empty. A row goes when topology apply --prune has deleted the queues.';
comment on column postbound.partition_prefetch.target is 'The target.';
comment on column postbound.partition_prefetch.generation is 'Generation of queues the partition is one of.';
comment on column postbound.partition_prefetch.partition is 'Partition number from 0.';
comment on column postbound.partition_prefetch.messages is 'So many may have been given back at once; the next consumer takes no fewer ahead.';

grant select on postbound.partition_prefetch to postbound_worker, postbound_operator, postbound_viewer;
grant insert, update on postbound.partition_prefetch to postbound_worker;
grant delete on postbound.partition_prefetch to postbound_operator;
