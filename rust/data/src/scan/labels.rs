//! Here: which class each image belongs to: by its folder, or by the number in the `.cls` beside it.
//! Not here: files.

use crate::error::{Error, Fault, Result, printable};
use crate::index::stem;
use crate::limits::MAX_CLASSES;

use super::extras::ExtraFile;
use super::list::{Item, Role};

/// What is, or claims to be, an image, before anyone has looked into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Number of its shard in the listing.
    pub shard: u32,
    /// Opaque bytes.
    pub name: Vec<u8>,
    /// In the shard.
    pub offset: u64,
    /// In bytes.
    pub length: u64,
    /// Its class, if the source has classes.
    pub label: Option<u32>,
    /// What else belongs to it.
    pub extras: Vec<ExtraFile>,
}

impl Candidate {
    /// Of the image and its extra files together.
    pub fn bytes(&self) -> u64 {
        self.extras.iter().fold(self.length, |sum, extra| sum.saturating_add(extra.length))
    }
}

pub(super) struct Labelled {
    pub(super) candidates: Vec<Candidate>,
    pub(super) class_names: Vec<Vec<u8>>,
    pub(super) numbered: bool,
}

/// One `.cls` anywhere makes the source a WebDataset, in which every image has one. Otherwise either
/// all images lie in class folders or none does.
pub(super) fn assign(items: Vec<Item>, in_archives: bool) -> Result<Labelled> {
    match items.iter().any(|item| matches!(item.role, Role::Label(_))) {
        true => by_number(items),
        false => by_folder(items, in_archives),
    }
}

fn inconsistent(name: &[u8], text: impl Into<String>) -> Error {
    Error::from(Fault::Source(text.into())).in_member(name)
}

/// Consecutive members of one stem are a sample: one image and one label.
fn by_number(items: Vec<Item>) -> Result<Labelled> {
    let mut candidates = Vec::new();
    let mut largest = 0;
    for sample in items.chunk_by(|a, b| a.shard == b.shard && stem(&a.name) == stem(&b.name)) {
        let mut image = None;
        let mut label = None;
        for item in sample {
            let twice = match &item.role {
                Role::Label(text) => {
                    label.replace(number(text).map_err(|error| error.in_member(&item.name))?).is_some()
                }
                _ => image.replace(item).is_some(),
            };
            if twice {
                return Err(inconsistent(&item.name, "a second image or label of one sample"));
            }
        }
        let first = &sample[0].name;
        let image = image
            .ok_or_else(|| inconsistent(first, "a label without a JPEG, PNG or WebP image next to it"))?;
        let label =
            label.ok_or_else(|| inconsistent(first, "no .cls next to it, but other samples have one"))?;
        largest = largest.max(label);
        candidates.push(candidate(image, Some(label)));
    }
    let class_names = (0..=largest).map(|label| label.to_string().into_bytes()).collect();
    Ok(Labelled { candidates, class_names, numbered: true })
}

/// A decimal number; white space around it is common.
fn number(text: &[u8]) -> Result<u32> {
    let digits = text.trim_ascii();
    let value =
        std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    match value.and_then(|text| text.parse().ok()) {
        Some(label) if u64::from(label) < MAX_CLASSES => Ok(label),
        _ => {
            Err(Fault::Source(format!("label \"{}\" is no number below {MAX_CLASSES}", printable(text)))
                .into())
        }
    }
}

fn by_folder(items: Vec<Item>, in_archives: bool) -> Result<Labelled> {
    let level = usize::from(in_archives && has_common_top(&items));
    let class = |item: &Item| -> Option<Vec<u8>> {
        let mut parts = components(&item.name).skip(level);
        // The last component is the file.
        parts.next().filter(|_| parts.next().is_some()).map(<[u8]>::to_vec)
    };
    let classes: Vec<Option<Vec<u8>>> = items.iter().map(class).collect();
    let (bare, inside) = (classes.iter().position(Option::is_none), classes.iter().position(Option::is_some));
    if let (Some(bare), Some(inside)) = (bare, inside) {
        let text = format!("lies in no class folder, but others do ({})", printable(&items[inside].name));
        return Err(inconsistent(&items[bare].name, text));
    }
    let mut class_names: Vec<Vec<u8>> = classes.iter().flatten().cloned().collect();
    class_names.sort_unstable();
    class_names.dedup();
    let label = |class: &Option<Vec<u8>>| -> Option<u32> {
        class_names.binary_search(class.as_ref()?).ok().map(|label| label as u32)
    };
    let candidates = items.iter().zip(&classes).map(|(item, class)| candidate(item, label(class))).collect();
    Ok(Labelled { candidates, class_names, numbered: false })
}

/// Whether an archive was made from outside: one top folder, in which everything lies in folders.
/// In a file system one points at the right folder instead.
fn has_common_top(items: &[Item]) -> bool {
    let top = items.first().and_then(|item| components(&item.name).next());
    items.iter().all(|item| components(&item.name).next() == top && components(&item.name).nth(2).is_some())
}

fn components(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    name.split(|&byte| byte == b'/').filter(|part| !part.is_empty() && *part != b".")
}

fn candidate(item: &Item, label: Option<u32>) -> Candidate {
    let Item { shard, offset, length, .. } = *item;
    Candidate { shard, name: item.name.clone(), offset, length, label, extras: item.extras.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(name: &str) -> Item {
        let name = name.as_bytes().to_vec();
        Item { shard: 0, name, offset: 0, length: 1, role: Role::Image, extras: Vec::new() }
    }

    fn label(name: &str, text: &str) -> Item {
        Item { role: Role::Label(text.as_bytes().to_vec()), ..image(name) }
    }

    fn assigned(items: Vec<Item>, in_archives: bool) -> (Vec<Option<u32>>, Vec<String>) {
        let Labelled { candidates, class_names, .. } = assign(items, in_archives).unwrap();
        let names = class_names.into_iter().map(|name| String::from_utf8(name).unwrap()).collect();
        (candidates.iter().map(|candidate| candidate.label).collect(), names)
    }

    fn refused(items: Vec<Item>) -> String {
        assign(items, true).err().unwrap().to_string()
    }

    #[test]
    fn classes_are_sorted_first_components() {
        let items = || vec![image("dog/1"), image("./cat/x/2"), image("Dog//3"), image("/cat/4")];
        let expected =
            (vec![Some(2), Some(1), Some(0), Some(1)], ["Dog", "cat", "dog"].map(String::from).to_vec());
        assert_eq!(assigned(items(), true), expected);
        assert_eq!(assigned(items(), false), expected);
        assert_eq!(assigned(vec![image("1"), image("./2")], true), (vec![None, None], vec![]));
    }

    #[test]
    fn a_single_top_folder_counts_in_folders_only() {
        let items = || vec![image("top/b/1"), image("top/a/2")];
        assert_eq!(assigned(items(), true).1, ["a", "b"]);
        assert_eq!(assigned(items(), false).1, ["top"]);
        assert_eq!(assigned(vec![image("top/a/1"), image("top/2")], true).1, ["top"]);
    }

    #[test]
    fn numbers_are_their_own_classes() {
        let items = vec![image("1.jpg"), label("1.cls", " 3\n"), label("2.cls", "0"), image("2.jpg")];
        let (labels, names) = assigned(items, true);
        assert_eq!(labels, [Some(3), Some(0)]);
        assert_eq!(names, ["0", "1", "2", "3"]);
        // The same stem in two shards is two samples.
        let second = [image("1.jpg"), label("1.cls", "1")].map(|item| Item { shard: 1, ..item });
        let items = [image("1.jpg"), label("1.cls", "0")].into_iter().chain(second).collect();
        assert_eq!(assigned(items, true).0, [Some(0), Some(1)]);
    }

    #[test]
    fn contradictions_are_refused() {
        assert!(
            refused(vec![image("a/1"), image("2")]).starts_with("2: inconsistent source: lies in no class")
        );
        assert!(refused(vec![image("1.jpg"), label("1.cls", "x")]).contains("\"x\" is no number"));
        assert!(refused(vec![image("1.jpg"), label("1.cls", "+1")]).contains("is no number"));
        assert!(refused(vec![image("1.jpg"), label("1.cls", "99999999999")]).contains("is no number"));
        let apart = vec![image("1.jpg"), image("2.jpg"), label("1.cls", "0"), label("2.cls", "0")];
        assert!(refused(apart).starts_with("1.jpg: inconsistent source: no .cls"));
        assert!(
            refused(vec![image("1.a.jpg"), image("1.b.jpg"), label("1.cls", "0")]).contains("a second image")
        );
        assert!(refused(vec![label("1.cls", "0")]).contains("a label without"));
    }
}
