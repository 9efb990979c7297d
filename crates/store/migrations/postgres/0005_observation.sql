-- When the evidence was last taken, and by what.
ALTER TABLE agents ADD COLUMN observation TEXT COLLATE "C";
