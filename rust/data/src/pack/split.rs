//! Here: which samples are held out: a fixed share of each class, by the names alone.
//! Not here: writing.

use sha2::{Digest, Sha256};

use crate::error::{Fault, Result};
use crate::scan::Candidate;

/// Which candidates are held out.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Split {
    /// For each candidate whether it is.
    pub(super) held: Vec<bool>,
    /// How many classes lost their only image.
    pub(super) classes_without_training: u64,
}

/// A class gives up its share of the names with the smallest hashes, rounded so that the total is right even
/// where classes have one image each. A class of several images keeps one.
pub(super) fn held_out(candidates: &[Candidate], num_classes: usize, share: f64) -> Result<Split> {
    if !(0.0..1.0).contains(&share) {
        return Err(Fault::Setting(format!("held-out share {share} is not in [0, 1)")).into());
    }
    let mut out = vec![false; candidates.len()];
    let mut classes_without_training = 0;
    if share == 0.0 {
        return Ok(Split { held: out, classes_without_training });
    }
    let mut classes: Vec<Vec<usize>> = vec![Vec::new(); num_classes + 1];
    for (at, candidate) in candidates.iter().enumerate() {
        classes[candidate.label.map_or(num_classes, |label| label as usize)].push(at);
    }
    let (mut seen, mut taken) = (0usize, 0usize);
    for (label, mut class) in classes.into_iter().enumerate() {
        seen += class.len();
        let mut due = (share * seen as f64).round() as usize - taken;
        taken += due;
        if label < num_classes && due > 0 && due >= class.len() {
            // What it keeps is not made up for by others.
            due = (class.len() - 1).max(1);
            classes_without_training += u64::from(class.len() == 1);
        }
        class.sort_by_cached_key(|&at| (hash(&candidates[at].name), at));
        for at in class.into_iter().take(due) {
            out[at] = true;
        }
    }
    let held = out.iter().filter(|&&held| held).count();
    if held == 0 || held == out.len() {
        let text = format!("held-out share {share} of {} images leaves one part empty", out.len());
        return Err(Fault::Setting(text).into());
    }
    Ok(Split { held: out, classes_without_training })
}

fn hash(name: &[u8]) -> [u8; 32] {
    Sha256::digest(name).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(counts: &[usize]) -> Vec<Candidate> {
        let class = |(label, &count): (usize, &usize)| {
            (0..count).map(move |number| Candidate {
                shard: 0,
                name: format!("{label}/{number}.jpg").into_bytes(),
                offset: 0,
                length: 1,
                label: Some(label as u32),
                extras: Vec::new(),
            })
        };
        counts.iter().enumerate().flat_map(class).collect()
    }

    fn per_class(candidates: &[Candidate], out: &[bool], label: u32) -> usize {
        candidates
            .iter()
            .zip(out)
            .filter(|(candidate, held)| **held && candidate.label == Some(label))
            .count()
    }

    #[test]
    fn each_class_gives_its_share() {
        let all = candidates(&[100, 50, 7]);
        let out = held_out(&all, 3, 0.2).unwrap().held;
        assert_eq!([0, 1, 2].map(|label| per_class(&all, &out, label)), [20, 10, 1]);
        let single = candidates(&[1; 1000]);
        let split = held_out(&single, 1000, 0.1).unwrap();
        assert_eq!(split.held.iter().filter(|&&held| held).count(), 100);
        assert_eq!(split.classes_without_training, 100);
    }

    #[test]
    fn a_class_of_several_images_keeps_one() {
        let all = candidates(&[2, 2, 2, 2, 40]);
        let Split { held, classes_without_training } = held_out(&all, 5, 0.75).unwrap();
        assert_eq!([0, 1, 2, 3, 4].map(|label| per_class(&all, &held, label)), [1, 1, 1, 1, 30]);
        assert_eq!(classes_without_training, 0);
    }

    #[test]
    fn names_decide_and_not_their_order() {
        let all = candidates(&[40, 40]);
        let out = held_out(&all, 2, 0.25).unwrap().held;
        let mut reversed: Vec<Candidate> = all.clone();
        reversed.reverse();
        let mut again = held_out(&reversed, 2, 0.25).unwrap().held;
        again.reverse();
        assert_eq!(out, again);
        let first: Vec<bool> = (0..80).map(|at| at % 40 < 10).collect();
        assert_ne!(out, first);
    }

    #[test]
    fn shares_that_leave_a_part_empty_are_refused() {
        let all = candidates(&[3]);
        assert!(held_out(&all, 1, 0.1).unwrap_err().to_string().contains("one part empty"));
        assert!(held_out(&[], 0, 0.99).unwrap_err().to_string().contains("one part empty"));
        for share in [-0.1, 1.0, f64::NAN] {
            assert!(held_out(&all, 1, share).is_err());
        }
        assert_eq!(held_out(&all, 1, 0.0).unwrap().held, [false; 3]);
    }
}
