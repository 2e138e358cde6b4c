//! The idle ROM: an x86 firmware image that halts at once and forever.
//!
//! It keeps a machine in run state `running` without reading a disk, as real firmware would. The
//! reset vector is 16 bytes below the end of the image; it holds CLI, HLT and a jump back to the
//! HLT (a non-maskable interrupt would wake the CPU). The rest is HLT, so that a stray jump halts
//! as well.

const SIZE: usize = 64 * 1024;
const HLT: u8 = 0xf4;
const RESET_VECTOR: usize = SIZE - 16;
/// CLI; HLT; JMP -3 (back to the HLT).
const IDLE: [u8; 4] = [0xfa, HLT, 0xeb, 0xfd];

/// The image: 64 KiB, the least that `-bios` takes.
#[must_use]
pub fn idle_rom() -> Vec<u8> {
    let mut image = vec![HLT; SIZE];
    image[RESET_VECTOR..RESET_VECTOR + IDLE.len()].copy_from_slice(&IDLE);
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_idle_rom_halts_at_the_reset_vector_and_everywhere_else() {
        let rom = idle_rom();
        assert_eq!(rom.len(), 65536);
        assert_eq!(&rom[0xfff0..0xfff4], [0xfa, 0xf4, 0xeb, 0xfd]);
        assert_eq!(rom.iter().filter(|b| **b != HLT).count(), 3);
        // The jump lands on the HLT before it: its operand counts from the next instruction.
        let target = 0xfff4 + i64::from(i8::from_le_bytes([rom[0xfff3]]));
        assert_eq!(target, 0xfff1);
    }
}
