-- Agents below level 2 have no image.
ALTER TABLE agents
    ALTER COLUMN image DROP NOT NULL,
    ALTER COLUMN image_name DROP NOT NULL,
    ADD CHECK ((image IS NULL) = (image_name IS NULL));

-- The levels that a node makes, by its own word. Nodes that never said so make containers.
ALTER TABLE nodes ADD COLUMN levels TEXT COLLATE "C" NOT NULL DEFAULT '["container"]';
