-- Each create counts a node's free slots and takes the first. The condition is put as SQLite needs it.
CREATE INDEX node_slots_free ON node_slots (node, slot, agent) WHERE coalesce(agent, '') = '';
