//! Whether a symbolic link stays inside the tree that it lies in. Pure.

/// Whether a link that lies `depth` directories below the tree's root can only lead into the tree.
///
/// `..` is accepted only in front: there it climbs from a directory that is known to be real, so climbing can
/// be counted. After a name it cannot be: the name may be a link itself, and `p/..` is then not where it
/// seems. Names after that may pass through other links of the tree, each of which was judged the same way.
pub(super) fn stays_inside(target: &[u8], depth: usize) -> bool {
    if target.is_empty() || target.starts_with(b"/") || target.len() > 4096 || target.contains(&0) {
        return false;
    }
    let mut climbed = 0;
    let mut named = false;
    for component in target.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." if named => return false,
            b".." => climbed += 1,
            _ => named = true,
        }
    }
    climbed <= depth
}
