-- What an agent may do now: beside its state, the one thing of it that may change. Agents from before have none, and nothing leaves
-- them.
ALTER TABLE agents ADD COLUMN policy TEXT COLLATE "C";
ALTER TABLE agents ADD COLUMN policy_revision BIGINT NOT NULL DEFAULT 0;
