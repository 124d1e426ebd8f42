-- From schema version 1 to 2. Score trials, trials of finals, and the results of every held-out row.
-- SQLite cannot change a check, so `trials` is made again; foreign keys are off meanwhile, and all
-- references name the table, so that they hold afterwards.

create table trials_2 (
  id            integer primary key,
  experiment    integer not null references experiments,
  number        integer not null,
  kind          text not null check (kind in ('tune', 'base', 'score', 'chat')),
  state         text not null,
  wanted        text not null default 'run'   -- the desired state
                check (wanted in ('run', 'pause', 'stop', 'kill')),
  settings      text not null,                -- dotted keys and values, JSON
  rank          real,                         -- lowest is placed first; null: the id; below 0: before other experiments
  wanted_card   text,                         -- UUID of the only card it may be placed on next
  warm_trial    integer references trials,    -- the trial whose adapter it starts from
  pruned        text not null default '',     -- why it ends early; reconcile stops it
  checkpoint_step integer,
  waiting       text not null default '',
  reason        text not null default '',
  mend          text not null default '',
  created_utc   real not null,
  changed_utc   real not null,
  finals_of     integer references trials,    -- the finalist that it trains again with another seed
  unique (experiment, number)
) strict;
insert into trials_2 (
  id, experiment, number, kind, state, wanted, settings, rank, wanted_card, warm_trial, pruned,
  checkpoint_step, waiting, reason, mend, created_utc, changed_utc)
select
  id, experiment, number, kind, state, wanted, settings, rank, wanted_card, warm_trial, pruned,
  checkpoint_step, waiting, reason, mend, created_utc, changed_utc
from trials;
drop table trials;
alter table trials_2 rename to trials;
create index trials_by_state on trials (state);

-- One row for each model and evaluation set, with arrays that have one number for each held-out row.
create table row_results (
  trial         integer not null references trials,
  evaluation    text not null,                -- digest of the rows, and how they are asked and judged
  step          integer not null,             -- of the weights that were scored; 0 for the base
  tokens        text not null,                -- digest of the rows as they were tokenised
  attempt       integer not null references attempts,
  scored        integer not null,             -- 1: they are its scores; 0: only compared while it trained
  rows          integer not null,
  columns       text not null,                -- names of the arrays in `packed` by kind, JSON
  packed        blob not null,                -- see store/row_results.py
  primary key (trial, evaluation, step)
) strict;
