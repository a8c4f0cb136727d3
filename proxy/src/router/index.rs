//! Finds the routes of a virtual host that can match a path, without looking at each of them.
//!
//! Exact paths are in a hash map; prefixes (and paths that ignore case) in tries; the rest (regular
//! expressions) in a list. Each gives indices in order of definition; [`Candidates`] merges them.

use std::collections::HashMap;

use smallvec::SmallVec;

use crate::config::route::{PathMatch, Route};

/// Below this many routes looking at each is faster.
const WORTH_IT: usize = 8;
/// Lists that one path can be in: beyond it (nested prefixes) every route is looked at.
const MAX_LISTS: usize = 10;

/// The index over the routes of one virtual host.
#[derive(Debug)]
pub(super) struct Index {
    routes: u32,
    tree: Option<Box<Tree>>,
}

#[derive(Debug, Default)]
struct Tree {
    exact: HashMap<Box<str>, List, foldhash::fast::FixedState>,
    prefixes: Trie,
    ignoring_case: Trie,
    rest: Vec<u32>,
}

type List = SmallVec<[u32; 4]>;

/// Indices of routes that may match, in order of definition.
#[derive(Debug)]
pub(super) enum Candidates<'a> {
    All(std::ops::Range<u32>),
    Merge(SmallVec<[&'a [u32]; MAX_LISTS]>),
}

impl Index {
    pub(super) fn new(routes: &[std::sync::Arc<Route>]) -> Self {
        let count = u32::try_from(routes.len()).unwrap_or(u32::MAX);
        if routes.len() <= WORTH_IT {
            return Self {
                routes: count,
                tree: None,
            };
        }
        let mut tree = Box::<Tree>::default();
        for (index, route) in (0..count).zip(routes) {
            match &route.matches.path {
                PathMatch::Exact {
                    value,
                    case_sensitive: true,
                } => {
                    tree.exact
                        .entry(Box::from(&**value))
                        .or_default()
                        .push(index);
                }
                PathMatch::Prefix {
                    value,
                    case_sensitive: true,
                }
                | PathMatch::SeparatedPrefix {
                    value,
                    case_sensitive: true,
                } => {
                    tree.prefixes.insert(value.as_bytes(), index);
                }
                PathMatch::Exact {
                    value,
                    case_sensitive: false,
                }
                | PathMatch::Prefix {
                    value,
                    case_sensitive: false,
                }
                | PathMatch::SeparatedPrefix {
                    value,
                    case_sensitive: false,
                } => {
                    tree.ignoring_case
                        .insert(value.to_ascii_lowercase().as_bytes(), index);
                }
                PathMatch::Regex(_) => tree.rest.push(index),
            }
        }
        Self {
            routes: count,
            tree: Some(tree),
        }
    }

    pub(super) fn candidates(&self, path: &str) -> Candidates<'_> {
        let Some(tree) = &self.tree else {
            return Candidates::All(0..self.routes);
        };
        let mut lists: SmallVec<[&[u32]; MAX_LISTS]> = SmallVec::new();
        if let Some(list) = tree.exact.get(path) {
            lists.push(list);
        }
        if !tree.rest.is_empty() {
            lists.push(&tree.rest);
        }
        let complete = tree.prefixes.walk(path.bytes(), &mut lists)
            && tree.ignoring_case.walk(
                path.bytes().map(|byte| byte.to_ascii_lowercase()),
                &mut lists,
            );
        if complete {
            Candidates::Merge(lists)
        } else {
            Candidates::All(0..self.routes)
        }
    }
}

impl Iterator for Candidates<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        match self {
            Self::All(range) => range.next(),
            Self::Merge(lists) => {
                let least = lists
                    .iter_mut()
                    .filter(|list| !list.is_empty())
                    .min_by_key(|l| l[0])?;
                let (first, rest) = least.split_first()?;
                *least = rest;
                Some(*first)
            }
        }
    }
}

/// A radix trie over bytes.
#[derive(Debug, Default)]
struct Trie {
    /// The first is the root.
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    /// The bytes that lead here from the parent.
    label: Box<[u8]>,
    /// First bytes of the children's labels, sorted, and where the children are.
    children: Vec<(u8, u32)>,
    /// Routes whose prefix ends here.
    routes: List,
}

impl Trie {
    fn add(&mut self, node: Node) -> u32 {
        let place = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        self.nodes.push(node);
        place
    }

    fn insert(&mut self, key: &[u8], route: u32) {
        if self.nodes.is_empty() {
            self.add(Node::default());
        }
        let mut at = 0;
        let mut key = key;
        loop {
            let Some(first) = key.first() else {
                self.nodes[at].routes.push(route);
                return;
            };
            match self.nodes[at]
                .children
                .binary_search_by_key(first, |child| child.0)
            {
                Err(position) => {
                    let leaf = self.add(Node {
                        label: key.into(),
                        children: Vec::new(),
                        routes: List::from_slice(&[route]),
                    });
                    self.nodes[at].children.insert(position, (*first, leaf));
                    return;
                }
                Ok(position) => {
                    let child = self.nodes[at].children[position].1 as usize;
                    let label = &self.nodes[child].label;
                    let common = label.iter().zip(key).take_while(|(a, b)| a == b).count();
                    if common < label.len() {
                        self.split(child, common);
                    }
                    at = child;
                    key = &key[common..];
                }
            }
        }
    }

    /// Makes `node` end after `length` bytes of its label; a new child takes the rest.
    fn split(&mut self, node: usize, length: usize) {
        let old = std::mem::take(&mut self.nodes[node]);
        let (head, tail) = old.label.split_at(length);
        let head = head.into();
        let first = tail[0];
        let rest = self.add(Node {
            label: tail.into(),
            children: old.children,
            routes: old.routes,
        });
        self.nodes[node] = Node {
            label: head,
            children: vec![(first, rest)],
            routes: List::new(),
        };
    }

    /// Adds the lists of all prefixes of `key`; false if there are too many.
    fn walk<'a>(
        &'a self,
        mut key: impl Iterator<Item = u8>,
        lists: &mut SmallVec<[&'a [u32]; MAX_LISTS]>,
    ) -> bool {
        let Some(mut node) = self.nodes.first() else {
            return true;
        };
        loop {
            if !node.routes.is_empty() {
                if lists.len() == MAX_LISTS {
                    return false;
                }
                lists.push(&node.routes);
            }
            let Some(byte) = key.next() else { return true };
            let Ok(position) = node.children.binary_search_by_key(&byte, |child| child.0) else {
                return true;
            };
            node = &self.nodes[node.children[position].1 as usize];
            for wanted in &node.label[1..] {
                if key.next() != Some(*wanted) {
                    return true;
                }
            }
        }
    }
}
