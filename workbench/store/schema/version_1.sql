-- Schema version 1, which version_2.sql takes to version 2: `trials` is made again there. The loop
-- is the one writer; everybody else opens read-only. Columns `mend` and `wanted`
-- hold what the code calls `hint` and `desired_state`: they keep their names, so that a home
-- written by any earlier build can be read before an engine has migrated it.

create table experiments (
  id            integer primary key,
  name          text not null unique,
  state         text not null check (state in ('preparing', 'ready', 'refused')),
  recipe        text not null,                -- resolved recipe, JSON
  rank_by       text not null,                -- the score its board ranks by
  prepared      text,                         -- prepared.json once READY
  resolved      text not null default '{}',   -- settings decided once for all its trials, JSON
  base_trial    integer references trials,    -- the trial that scored its base; may be another experiment's
  reason        text not null default '',
  mend          text not null default '',     -- the hint
  priority      integer not null default 0,
  held          integer not null default 0,
  max_parallel  integer,                      -- trials that may run at the same time; null: any number
  most_trials   integer,                      -- trials its sweep may have in all; null: any number
  searching     integer not null default 0,   -- 1 while its sweep may still add trials
  warm_trial    integer references trials,    -- the trial whose adapter its trials start from
  ended_utc     real,                         -- when all of it had ended and that was noted
  created_utc   real not null
) strict;

create table trials (
  id            integer primary key,
  experiment    integer not null references experiments,
  number        integer not null,
  kind          text not null check (kind in ('tune', 'base')),
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
  unique (experiment, number)
) strict;
create index trials_by_state on trials (state);

create table attempts (
  id            integer primary key,          -- grows only, because rows are never deleted
  trial         integer not null references trials,
  card          text not null,
  plan          text not null,
  predicted_bytes integer not null,
  peak_bytes    integer,
  generation    integer,
  pid           integer,
  started_utc   real not null,
  reported_utc  real,                         -- when its first event came
  ended_utc     real,
  outcome       text,                         -- events.Outcome; null while live
  reason        text not null default '',
  cause         text not null default '',     -- kind of failure: out_of_memory, data, …
  stage         text not null default '',     -- phase in which it failed
  from_step     integer not null default 0,
  last_step     integer not null default 0,
  total_steps   integer,
  loss          real,                         -- newest reported
  tokens_per_s  real,                         -- newest reported
  energy_wh     real,                         -- null where the card reports neither energy nor power
  checkpoint_step integer,                    -- the newest this attempt committed
  phase         text not null default '',
  halt          text,                         -- the halt sent to its worker, again each tick
  offset        integer not null default 0    -- bytes of events.jsonl that are in the tables
) strict;
create index attempts_by_trial on attempts (trial);
create index attempts_by_end on attempts (ended_utc);
create index attempts_out_of_memory on attempts (trial) where cause = 'out_of_memory';
create index attempts_by_card on attempts (card, ended_utc);
create unique index one_live_attempt_per_trial on attempts (trial) where outcome is null;
create unique index one_live_attempt_per_card on attempts (card) where outcome is null;

create table moves (
  id            integer primary key,
  trial         integer not null references trials,
  before        text not null,
  after         text not null,
  made_by       text not null,
  why           text not null,
  at_utc        real not null
) strict;
create index moves_by_trial on moves (trial);

create table requests (
  id            text primary key,
  verb          text not null,
  args          text not null,
  sent_utc      real not null,
  answered_utc  real not null,
  ok            integer not null,
  answer        text not null,
  mend          text not null default '',
  data          text not null default '{}'
) strict;

create table metrics (
  trial         integer not null references trials,
  name          text not null,
  step          integer not null,
  value         real,                         -- null: NaN or infinite
  primary key (trial, name, step)
) strict, without rowid;

-- One row for 1,024 steps, so that a chart of millions of steps need not read them all.
create table metric_bands (
  trial         integer not null references trials,
  name          text not null,
  band          integer not null,
  low           real,
  high          real,
  primary key (trial, name, band)
) strict, without rowid;

create table events (
  id            integer primary key,
  at_utc        real not null,
  experiment    integer,
  trial         integer,
  attempt       integer,
  kind          text not null,
  level         text not null default 'info' check (level in ('debug', 'info', 'warning', 'error')),
  text          text not null
) strict;
create index events_by_trial on events (trial, id);

create table samples (
  trial         integer not null references trials,
  attempt       integer not null references attempts,
  n             integer not null,
  question      text not null,
  expected      text not null,
  answer        text not null,
  correct       integer,
  primary key (trial, n)
) strict, without rowid;

create table cards (
  uuid          text primary key,
  kind          text not null,
  name          text not null,
  total_bytes   integer not null,
  cap_bytes     integer,
  capability    text,
  free_bytes    integer,
  utilisation   real,
  temperature_c real,
  power_w       real,
  power_limit_w real,
  energy_j      real,                         -- counted by the card since its driver was loaded
  energy_wh     real,                         -- drawn by our attempts on it, in all
  ecc_errors    integer,                      -- uncorrectable, since its driver was loaded
  processes     text not null default '[]',   -- processes that are not ours, JSON
  xid_watch     integer,                      -- whether the driver reports Xid errors to us
  xids          text not null default '[]',   -- [[UTC seconds, code], …], newest last, JSON
  lost          integer not null default 0,   -- the driver answers and no longer lists it
  heat          text not null default '' check (heat in ('', 'warm', 'hot')),
  guard         text not null default '',     -- why a guard keeps new trials off it, or empty
  present       integer not null default 1,
  drained       integer not null default 0,
  quarantined   text not null default '',     -- why, or empty
  forgiven      integer not null default 0,   -- attempts up to this id no longer count against it
  problem       text not null default '',
  generation    integer not null default 0,
  seen_utc      real not null
) strict;

create table adapters (
  trial         integer primary key references trials,
  attempt       integer not null references attempts,
  path          text not null,
  bytes         integer not null,
  sha256        text not null,
  made_utc      real not null
) strict;

create table scores (
  trial         integer not null references trials,
  name          text not null,
  value         real,
  step          integer not null,
  attempt       integer not null references attempts,
  primary key (trial, name)
) strict, without rowid;

-- ASHA rungs that a trial has reached; each is judged once.
create table rungs (
  id            integer primary key,
  trial         integer not null references trials,
  rung          integer not null,             -- from 0
  step          integer not null,             -- of the evaluation that reached the rung
  value         real,                         -- held-out loss there; null: not a number
  unique (trial, rung)
) strict;

create table facts (
  key           text primary key,
  value         text not null
) strict;
