-- Raised with every change of what is shown of an agent: whoever has shown it before shows the same again while this stays.
ALTER TABLE agents ADD COLUMN shown INTEGER NOT NULL DEFAULT 0;
