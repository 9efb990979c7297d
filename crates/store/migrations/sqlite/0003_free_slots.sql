-- Each create counts a node's free slots and takes the first. Asked for with `agent IS NULL`, SQLite takes the unique index of
-- `agent`, as if few rows had none, and walks past every free slot of every node; asked for like this it takes this one.
CREATE INDEX node_slots_free ON node_slots (node, slot, agent) WHERE coalesce(agent, '') = '';
