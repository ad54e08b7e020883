//! Here: the checksum of all that is stored: CRC-32C (Castagnoli's polynomial; RFC 3720, appendix B.4).
//! Not here: what is checked, and what is said if it is another one.
//!
//! By products without carries where the CPU has them for whole vectors: four times as fast as its instruction for
//! eight bytes of this very checksum, which every image that is read waits for.

use crc_fast::{CrcAlgorithm, Digest, crc32_iscsi};

/// The checksum of these bytes.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    crc32_iscsi(bytes)
}

/// The checksum of bytes that have this one, and others behind them.
pub(crate) fn crc32c_append(checksum: u32, bytes: &[u8]) -> u32 {
    // What is kept on the way is the inverse of what is told.
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, (!checksum).into());
    digest.update(bytes);
    digest.finalize() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_cpus_instruction_wherever_bytes_begin_and_end() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        let most = if cfg!(miri) { 70 } else { 1500 };
        let bytes: Vec<u8> = (0..most + 9_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for from in 0..9 {
            for length in (0..most as usize).step_by(if from == 0 { 1 } else { 37 }) {
                let (all, cut) = (&bytes[from..from + length], length / 3);
                assert_eq!(crc32c(all), ::crc32c::crc32c(all), "{length} from {from}");
                assert_eq!(
                    crc32c_append(crc32c(&all[..cut]), &all[cut..]),
                    crc32c(all),
                    "{length} from {from}"
                );
            }
        }
    }
}
