//! Here: which files are extra members of which image: consecutive ones of one stem, as in WebDataset.
//! Not here: files, labels.

use crate::error::{Error, Fault, Result};
use crate::index::{extension, stem};
use crate::limits::MAX_EXTRAS;

use super::labels::Candidate;
use super::list::{Item, Listing, Role};

/// A file that belongs to an image and is neither an image nor a label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtraFile {
    /// Number of its shard in the listing: the image's in an archive, its own in a folder.
    pub shard: u32,
    /// Opaque bytes.
    pub name: Vec<u8>,
    /// In the shard.
    pub offset: u64,
    /// In bytes.
    pub length: u64,
    /// Number of its extension in the plan.
    pub kind: u32,
}

/// Gives the extra files of a listing to the images that they stand next to. Those whose stem has no image
/// there, or several, belong to none; they are counted as ignored.
pub(super) fn attach(listing: &mut Listing) -> Result<()> {
    let items = std::mem::take(&mut listing.items);
    let in_archives = listing.in_archives;
    let together =
        |a: &Item, b: &Item| (a.shard == b.shard || !in_archives) && stem(&a.name) == stem(&b.name);
    let groups: Vec<usize> = items.chunk_by(together).map(<[Item]>::len).collect();
    let mut items = items.into_iter();
    for length in groups {
        let group = items.by_ref().take(length);
        let (extras, mut others): (Vec<Item>, Vec<Item>) =
            group.partition(|item| matches!(item.role, Role::Extra));
        let mut images = others.iter_mut().filter(|item| matches!(item.role, Role::Image));
        match (images.next(), images.next()) {
            (Some(image), None) => {
                check(&extras).map_err(|(at, fault)| {
                    let Item { shard, name, offset, .. } = &extras[at];
                    let error = Error::from(fault).in_shard(listing.path(*shard).display());
                    if in_archives { error.in_member(name).at(*offset) } else { error }
                })?;
                image.extras = extras.into_iter().map(file).collect();
            }
            _ => listing.ignored += extras.len() as u64,
        }
        listing.items.append(&mut others);
    }
    Ok(())
}

fn file(item: Item) -> ExtraFile {
    let Item { shard, name, offset, length, .. } = item;
    ExtraFile { shard, name, offset, length, kind: 0 }
}

/// The extra files of one image: not too many, and each extension once. The error comes with the number of
/// the file that is one too many.
fn check(extras: &[Item]) -> std::result::Result<(), (usize, Fault)> {
    let limit = MAX_EXTRAS;
    if let Some(at) = (extras.len() as u64 > limit).then_some(limit as usize) {
        let (what, found) = ("number of extra members of a sample", extras.len() as u64);
        return Err((at, Fault::Limit { what, found, limit }));
    }
    let extensions: Vec<Vec<u8>> = extras.iter().map(|extra| extension(&extra.name)).collect();
    match (1..extensions.len()).find(|&at| extensions[..at].contains(&extensions[at])) {
        Some(at) => Err((at, Fault::Source("a second member of this name in one sample".into()))),
        None => Ok(()),
    }
}

/// Numbers the extensions of all extra files; gives them in byte order.
pub(super) fn number(candidates: &mut [Candidate]) -> Vec<Vec<u8>> {
    let names = candidates.iter().flat_map(|candidate| &candidate.extras).map(|extra| extension(&extra.name));
    let kinds: Vec<Vec<u8>> = names.collect::<std::collections::BTreeSet<_>>().into_iter().collect();
    for extra in candidates.iter_mut().flat_map(|candidate| &mut candidate.extras) {
        let kind = kinds.binary_search(&extension(&extra.name));
        extra.kind = kind.unwrap_or_default() as u32;
    }
    kinds
}
