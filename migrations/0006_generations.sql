-- Generations of partition queues. Another number of partitions means another generation: the relay goes on to it at
-- once, workers lease it only when the one before is empty, so that no user is worked on in two partitions at once.

alter table postbound.target
    add column draining_generation integer,
    add column draining_partitions integer,
    add constraint target_draining_is_whole check ((draining_generation is null) = (draining_partitions is null)),
    add constraint target_draining_is_past check (draining_generation < generation),
    add constraint target_draining_partitions_bounded check (draining_partitions between 1 and 256);
comment on column postbound.target.draining_generation is 'The generation before, while workers still drain it; null: workers lease the current one.';
comment on column postbound.target.draining_partitions is 'Number of partition queues of the generation that is being drained.';

alter table postbound.stream_cursor
    add column generation integer not null default 1,
    add constraint stream_cursor_generation_positive check (generation > 0);
comment on column postbound.stream_cursor.generation is 'Generation of queues the stream publishes to since its last start. Once it is the target''s, nothing reaches an older one on purpose.';
comment on column postbound.stream_cursor.rewinds is 'Grows when an operator rewinds the cursor or repartitions the target: what a relay confirmed before can no longer move it, so that it starts over from there.';

alter table postbound.partition_lease
    add column generation integer not null default 1,
    drop constraint partition_lease_pk,
    add constraint partition_lease_pk primary key (target, generation, partition);
comment on column postbound.partition_lease.generation is 'Generation of queues the partition is one of. Of one target, only one generation is leased at a time.';

create table postbound.drained_partition (
    target     text collate "C" not null,
    generation integer not null,
    partition  integer not null,
    drained_at timestamptz not null default now(),
    constraint drained_partition_pk primary key (target, generation, partition),
    constraint drained_partition_of_target foreign key (target) references postbound.target (name),
    constraint drained_partition_bounded check (partition between 0 and 255)
);
comment on table postbound.drained_partition is 'Partitions of past generations whose queues were found empty after the relay had gone on; never leased again. A row goes when topology apply --prune has deleted the queues.';
comment on column postbound.drained_partition.target is 'The target.';
comment on column postbound.drained_partition.generation is 'The past generation, or the one that is being drained.';
comment on column postbound.drained_partition.partition is 'Partition number from 0.';
comment on column postbound.drained_partition.drained_at is 'When it was found empty.';

grant select on postbound.drained_partition to postbound_worker, postbound_operator, postbound_viewer;
grant insert on postbound.drained_partition to postbound_worker;
grant delete on postbound.drained_partition to postbound_operator;
-- topology apply --prune retires targets: the log need not be kept for them.
grant delete on postbound.stream_cursor to postbound_operator;
-- The worker that finds the last queue empty ends the draining.
grant update (draining_generation, draining_partitions, updated_at) on postbound.target to postbound_worker;
grant select on postbound.stream_cursor to postbound_worker;
