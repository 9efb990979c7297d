-- What each create asks of a node, without walking through its slots and its agents: how many slots are free, and by which of the
-- account's agents there the way to their workspace APIs is known.
ALTER TABLE nodes ADD COLUMN free INTEGER NOT NULL DEFAULT 0;
UPDATE nodes SET free = (SELECT count(*) FROM node_slots s WHERE s.node = nodes.id AND coalesce(s.agent, '') = '');
CREATE INDEX agents_way ON agents (node, account)
    WHERE state <> 'destroyed' AND observed_generation > 0 AND workspace_url IS NOT NULL;
