-- From schema version 2 to 3: when an attempt will probably end.
alter table attempts add column ends_utc real;  -- null: not known, or ended
