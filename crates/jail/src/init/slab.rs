//! A table whose keys are never mistaken for a later tenant of the same slot.

/// Names an entry; becomes stale when the entry is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    index: u32,
    generation: u32,
}

impl Key {
    /// Names no entry: for tokens of things that are in no table.
    pub const NONE: Self = Self { index: u32::MAX, generation: u32::MAX };

    /// 24 bits of generation and 32 of index: what fits beside an epoll token's tag.
    pub fn to_bits(self) -> u64 {
        (u64::from(self.generation & 0x00ff_ffff) << 32) | u64::from(self.index)
    }
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    /// Reserved slots whose entry is being worked on elsewhere are used and empty.
    used: bool,
    entry: Option<T>,
}

/// The table.
#[derive(Debug)]
pub struct Slab<T> {
    slots: Vec<Slot<T>>,
    used: usize,
}

impl<T> Slab<T> {
    /// An empty one. Allocates nothing.
    pub const fn new() -> Self {
        Self { slots: Vec::new(), used: 0 }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.used
    }

    /// Adds an entry.
    pub fn insert(&mut self, entry: T) -> Key {
        self.used += 1;
        if let Some(index) = self.slots.iter().position(|slot| !slot.used)
            && let Some(slot) = self.slots.get_mut(index)
        {
            slot.used = true;
            slot.entry = Some(entry);
            return Key { index: index as u32, generation: slot.generation };
        }
        self.slots.push(Slot { generation: 0, used: true, entry: Some(entry) });
        Key { index: (self.slots.len() - 1) as u32, generation: 0 }
    }

    fn slot(&mut self, key: Key) -> Option<&mut Slot<T>> {
        let slot = self.slots.get_mut(key.index as usize)?;
        (slot.used && slot.generation == key.generation).then_some(slot)
    }

    /// The key that an epoll token's bits stand for.
    pub fn find(&self, bits: u64) -> Option<Key> {
        let index = (bits & u64::from(u32::MAX)) as u32;
        let slot = self.slots.get(index as usize)?;
        let key = Key { index, generation: slot.generation };
        (slot.used && key.to_bits() == bits).then_some(key)
    }

    /// Looks at an entry.
    pub fn get(&self, key: Key) -> Option<&T> {
        let slot = self.slots.get(key.index as usize)?;
        if slot.used && slot.generation == key.generation { slot.entry.as_ref() } else { None }
    }

    /// Changes an entry.
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.slot(key)?.entry.as_mut()
    }

    /// Takes an entry out to work on it; its key stays valid for [`Self::put`] and [`Self::remove`].
    pub fn take(&mut self, key: Key) -> Option<T> {
        self.slot(key)?.entry.take()
    }

    /// Puts it back.
    pub fn put(&mut self, key: Key, entry: T) {
        if let Some(slot) = self.slot(key) {
            slot.entry = Some(entry);
        }
    }

    /// Frees the slot, whether or not the entry was taken out.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        let slot = self.slot(key)?;
        slot.used = false;
        slot.generation = slot.generation.wrapping_add(1);
        let entry = slot.entry.take();
        self.used -= 1;
        entry
    }

    /// All entries that are not taken out.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| {
            let key = Key { index: index as u32, generation: slot.generation };
            slot.entry.as_ref().map(|entry| (key, entry))
        })
    }

    /// Their keys, by value, so that the table can be changed meanwhile.
    pub fn keys(&self) -> Vec<Key> {
        self.iter().map(|(key, _)| key).collect()
    }
}
