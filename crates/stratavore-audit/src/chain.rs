//! The chain of hashes, and the tree over them.

use sha2::{Digest, Sha256};

pub const HASH_LEN: usize = 32;
pub type Hash = [u8; HASH_LEN];

/// The hash of one record: of its text, its code and the record before it.
///
/// It is also the record's leaf in the tree, as RFC 6962 hashes leaves.
pub(crate) fn leaf(content: &[u8], mac: &[u8], before: &Hash) -> Hash {
    leaf_in(&mut Vec::new(), content, mac, before)
}

/// The same, put together in `place`: what lies in one piece is hashed in one go.
pub(crate) fn leaf_in(place: &mut Vec<u8>, content: &[u8], mac: &[u8], before: &Hash) -> Hash {
    place.clear();
    for part in [&[0], content, mac, before] {
        place.extend_from_slice(part);
    }
    Sha256::digest(place).into()
}

fn node(left: &Hash, right: &Hash) -> Hash {
    let mut text = [1; 1 + 2 * HASH_LEN];
    text[1..=HASH_LEN].copy_from_slice(left);
    text[1 + HASH_LEN..].copy_from_slice(right);
    Sha256::digest(text).into()
}

/// What stands before the first record: it is another one in each log, so that a whole chain of
/// another log does not fit.
pub(crate) fn genesis(origin: &str) -> Hash {
    let mut hash = Sha256::new();
    hash.update(b"stratavore record of ");
    hash.update(origin.as_bytes());
    hash.finalize().into()
}

/// A chain as far as it goes: what the next record is appended to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    last: Hash,
    tree: Frontier,
}

impl Chain {
    /// One without a record.
    pub fn new(origin: &str) -> Self {
        Self { last: genesis(origin), tree: Frontier::default() }
    }

    /// One that was kept. `last` is the hash of its last record.
    pub fn resumed(last: Hash, tree: Frontier) -> Self {
        Self { last, tree }
    }

    /// Appends a record and answers its hash.
    pub fn append(&mut self, content: &[u8], mac: &[u8]) -> Hash {
        let hash = leaf(content, mac, &self.last);
        self.append_hash(hash);
        hash
    }

    /// Appends a record of which only the hash is known.
    pub fn append_hash(&mut self, hash: Hash) {
        self.last = hash;
        self.tree.append(hash);
    }

    /// How many records it has; the position of the last one.
    pub fn size(&self) -> u64 {
        self.tree.size()
    }

    pub fn root(&self) -> Hash {
        self.tree.root()
    }

    pub fn frontier(&self) -> &Frontier {
        &self.tree
    }
}

/// What a tree is continued from: the roots of its whole subtrees, the largest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Frontier {
    size: u64,
    roots: Vec<Hash>,
}

impl Frontier {
    pub fn append(&mut self, leaf: Hash) {
        let mut root = leaf;
        let mut place = self.size;
        while place & 1 == 1 {
            let left = self.roots.pop().expect("each bit of the size has its root");
            root = node(&left, &root);
            place >>= 1;
        }
        self.roots.push(root);
        self.size += 1;
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    /// The root of the whole tree, as RFC 6962 has it.
    pub fn root(&self) -> Hash {
        let mut smallest_first = self.roots.iter().rev();
        let Some(last) = smallest_first.next() else { return Sha256::digest([]).into() };
        smallest_first.fold(*last, |root, left| node(left, &root))
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        self.roots.concat()
    }

    /// `None` if so many bytes are none of a tree of this size.
    pub fn from_bytes(size: u64, bytes: &[u8]) -> Option<Self> {
        let (roots, rest) = bytes.as_chunks::<HASH_LEN>();
        let whole = rest.is_empty() && roots.len() == size.count_ones() as usize;
        whole.then(|| Self { size, roots: roots.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{hex, unhex};

    /// The test vectors of RFC 6962's reference tree, by the hashes of its leaves.
    #[test]
    fn the_tree_is_that_of_rfc_6962() {
        let leaves: [&[u8]; 8] = [
            &[],
            &[0x00],
            &[0x10],
            &[0x20, 0x21],
            &[0x30, 0x31],
            &[0x40, 0x41, 0x42, 0x43],
            &[0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57],
            &[
                0x60, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x6b, 0x6c, 0x6d,
                0x6e, 0x6f,
            ],
        ];
        let roots = [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        let mut tree = Frontier::default();
        assert_eq!(
            hex(&tree.root()),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        for (leaf, root) in leaves.into_iter().zip(roots) {
            let mut hash = Sha256::new();
            hash.update([0]);
            hash.update(leaf);
            tree.append(hash.finalize().into());
            assert_eq!(hex(&tree.root()), root);
            let kept = Frontier::from_bytes(tree.size(), &tree.to_bytes()).unwrap();
            assert_eq!(kept, tree);
        }
        assert!(Frontier::from_bytes(7, &tree.to_bytes()).is_none());
        assert_eq!(unhex::<2>(b"0aff"), Some([10, 255]));
        assert_eq!(unhex::<2>(b"0AFF"), None);
    }

    #[test]
    fn a_chain_depends_on_its_log_and_on_all_that_came_before() {
        let append = |origin: &str, records: &[&str]| {
            let mut chain = Chain::new(origin);
            records.iter().map(|record| chain.append(record.as_bytes(), b"")).last()
        };
        assert_eq!(append("a", &["1", "2"]), append("a", &["1", "2"]));
        assert_ne!(append("a", &["1", "2"]), append("b", &["1", "2"]));
        assert_ne!(append("a", &["1", "2"]), append("a", &["3", "2"]));
    }
}
