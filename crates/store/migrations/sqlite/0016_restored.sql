-- Whether an agent is as a backup had it, and its node has not said since how it is.
ALTER TABLE agents ADD COLUMN restored INTEGER NOT NULL DEFAULT 0;
