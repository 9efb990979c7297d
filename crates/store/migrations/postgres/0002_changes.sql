-- The revision of its node at which an agent last changed for that node, so that a node is told what is new alone.
ALTER TABLE agents ADD COLUMN node_rev BIGINT NOT NULL DEFAULT 0;
CREATE INDEX agents_by_change ON agents (node, node_rev);
