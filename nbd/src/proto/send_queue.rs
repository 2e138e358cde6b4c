//! Outgoing bytes, in order, with the cost of each message until it is sent.

use std::collections::VecDeque;
use std::io::IoSlice;

/// Messages waiting to be written: each an encoded head, and a body that is not copied.
#[derive(Debug)]
pub struct SendQueue<B> {
    items: VecDeque<Item<B>>,
    /// Bytes of the first item that are written.
    sent: usize,
    total: u64,
}

#[derive(Debug)]
struct Item<B> {
    head: Vec<u8>,
    body: Option<B>,
    cost: u64,
}

impl<B> Default for SendQueue<B> {
    fn default() -> Self {
        SendQueue {
            items: VecDeque::new(),
            sent: 0,
            total: 0,
        }
    }
}

impl<B: AsRef<[u8]>> SendQueue<B> {
    /// Appends a message. `cost` is returned by [`SendQueue::advance`] once it is written. An empty
    /// message is skipped: writing zero bytes would look like a failed write.
    pub fn push(&mut self, head: Vec<u8>, body: Option<B>, cost: u64) {
        let len = head.len() + body.as_ref().map_or(0, |b| b.as_ref().len());
        if len > 0 {
            self.items.push_back(Item { head, body, cost });
        }
    }

    /// Appends a message whose body is in several parts.
    pub fn push_parts(&mut self, mut head: Vec<u8>, parts: Vec<B>, cost: u64) {
        let mut parts = parts.into_iter().filter(|part| !part.as_ref().is_empty());
        let mut part = parts.next();
        loop {
            let next = parts.next();
            if next.is_none() {
                return self.push(head, part, cost);
            }
            self.push(std::mem::take(&mut head), part, 0);
            part = next;
        }
    }

    /// Whether all is written.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The next bytes to be written, as many slices as fit; returns how many there are.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut skip = self.sent;
        let mut used = 0;
        for item in &self.items {
            for part in [
                &item.head[..],
                item.body.as_ref().map_or(&[], |b| b.as_ref()),
            ] {
                let from = skip.min(part.len());
                skip -= from;
                if from == part.len() {
                    continue;
                }
                if used == slices.len() {
                    return used;
                }
                slices[used] = IoSlice::new(&part[from..]);
                used += 1;
            }
        }
        used
    }

    /// `n` bytes were written; returns the cost of the messages completed by them.
    pub fn advance(&mut self, n: usize) -> u64 {
        self.total += n as u64;
        self.sent += n;
        let mut cost = 0;
        while let Some(first) = self.items.front() {
            let len = first.head.len() + first.body.as_ref().map_or(0, |b| b.as_ref().len());
            if self.sent < len {
                break;
            }
            self.sent -= len;
            cost += first.cost;
            self.items.pop_front();
        }
        cost
    }

    /// Takes all bytes at once, for drivers that do not use slices.
    pub fn take(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        let mut skip = self.sent;
        for item in &self.items {
            all.extend_from_slice(&item.head);
            all.extend_from_slice(item.body.as_ref().map_or(&[], |b| b.as_ref()));
        }
        skip = skip.min(all.len());
        all.drain(..skip);
        all
    }

    /// Drops what is not written.
    pub fn clear(&mut self) {
        self.items.clear();
        self.sent = 0;
    }

    /// Bytes written so far.
    pub fn total(&self) -> u64 {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_make_up_one_message_which_is_gone_with_the_last_of_them() {
        let parts = |all: &[&[u8]]| all.iter().map(|p| p.to_vec()).collect();
        let mut queue = SendQueue::default();
        queue.push_parts(b"a".to_vec(), parts(&[b"", b"bc", b"", b"d", b""]), 7);
        queue.push_parts(b"e".to_vec(), parts(&[b""]), 1);
        assert_eq!((queue.advance(3), queue.advance(1)), (0, 7));
        assert_eq!((queue.advance(1), queue.is_empty()), (1, true));
        queue.push_parts(b"a".to_vec(), parts(&[b"b", b"c"]), 0);
        assert_eq!(queue.take(), b"abc");
    }

    #[test]
    fn slices_go_on_where_the_last_write_stopped_and_costs_come_back_once() {
        let mut queue = SendQueue::default();
        queue.push(b"ab".to_vec(), Some(b"cde".to_vec()), 7);
        queue.push(b"f".to_vec(), None, 1);
        assert_eq!(queue.advance(3), 0);
        let mut slices = [IoSlice::new(&[]); 4];
        let n = queue.slices(&mut slices);
        let rest: Vec<u8> = slices[..n].iter().flat_map(|s| s.to_vec()).collect();
        assert_eq!(rest, b"def");
        assert_eq!(queue.advance(2), 7);
        assert_eq!(queue.advance(1), 1);
        assert!(queue.is_empty() && queue.total() == 6);
    }
}
