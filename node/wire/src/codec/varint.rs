//! Variable-length numbers: 7 bits per byte, lowest first, the high bit says that more follow.
//!
//! Lengths and tags of flexible versions are unsigned; records inside a batch use the zigzag forms.

use bytes::{Buf, BufMut};

use super::{DecodeError, DecodeErrorKind};

/// Reads an unsigned number of at most 32 bits (5 bytes).
pub fn read_unsigned(buf: &mut impl Buf) -> Result<u32, DecodeError> {
    let value = read(buf, 32)?;
    u32::try_from(value).map_err(|_| DecodeErrorKind::VarintTooLong { bits: 32 }.into())
}

/// Reads a zigzag number of at most 32 bits.
pub fn read_signed(buf: &mut impl Buf) -> Result<i32, DecodeError> {
    let value = read_unsigned(buf)?;
    Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
}

/// Reads a zigzag number of at most 64 bits (10 bytes).
pub fn read_signed_long(buf: &mut impl Buf) -> Result<i64, DecodeError> {
    let value = read(buf, 64)?;
    Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
}

/// Writes an unsigned number in its shortest form.
pub fn write_unsigned(buf: &mut impl BufMut, value: u32) {
    write(buf, u64::from(value));
}

/// Writes a zigzag number in its shortest form.
pub fn write_signed(buf: &mut impl BufMut, value: i32) {
    write_unsigned(buf, ((value << 1) ^ (value >> 31)).cast_unsigned());
}

/// Writes a zigzag number of 64 bits in its shortest form.
pub fn write_signed_long(buf: &mut impl BufMut, value: i64) {
    write(buf, ((value << 1) ^ (value >> 63)).cast_unsigned());
}

/// Bytes that [`write_unsigned`] takes for `value`.
pub fn unsigned_len(value: u32) -> usize {
    (38 - value.leading_zeros() as usize).max(7) / 7
}

fn read(buf: &mut impl Buf, bits: u32) -> Result<u64, DecodeError> {
    let mut value = 0_u64;
    let mut shift = 0;
    loop {
        let byte = buf
            .try_get_u8()
            .map_err(|_| DecodeErrorKind::Truncated { needed: 1, left: 0 })?;
        let low = u64::from(byte & 0x7f);
        // The last byte of a full-length number may only fill the bits that are left.
        if shift + 7 > bits && low >> (bits - shift) != 0 {
            return Err(DecodeErrorKind::VarintTooLong { bits }.into());
        }
        value |= low << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
        shift += 7;
        if shift >= bits {
            return Err(DecodeErrorKind::VarintTooLong { bits }.into());
        }
    }
}

fn write(buf: &mut impl BufMut, mut value: u64) {
    while value >= 0x80 {
        buf.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    buf.put_u8(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsigned_numbers_come_back_and_take_the_length_foretold() {
        for value in (0..32).flat_map(|bit| [(1_u32 << bit) - 1, 1 << bit, u32::MAX >> bit]) {
            let mut bytes = Vec::new();
            write_unsigned(&mut bytes, value);
            assert_eq!(bytes.len(), unsigned_len(value), "{value}");
            assert_eq!(read_unsigned(&mut &bytes[..]), Ok(value));
        }
    }

    #[test]
    fn signed_numbers_come_back() {
        for value in (0..64).flat_map(|bit| [i64::MIN >> bit, i64::MAX >> bit, 1 << bit]) {
            let mut bytes = Vec::new();
            write_signed_long(&mut bytes, value);
            assert_eq!(read_signed_long(&mut &bytes[..]), Ok(value));
            let short = value as i32;
            let mut bytes = Vec::new();
            write_signed(&mut bytes, short);
            assert_eq!(read_signed(&mut &bytes[..]), Ok(short));
        }
    }

    #[test]
    fn more_bits_than_the_type_has_are_refused() {
        let too_long = Err(DecodeErrorKind::VarintTooLong { bits: 32 }.into());
        assert_eq!(
            read_unsigned(&mut &[0xff, 0xff, 0xff, 0xff, 0x0f][..]),
            Ok(u32::MAX)
        );
        assert_eq!(read_unsigned(&mut &[0xff, 0xff, 0xff, 0xff, 0x1f][..]), too_long);
        assert_eq!(
            read_unsigned(&mut &[0x80, 0x80, 0x80, 0x80, 0x80, 0x00][..]),
            too_long
        );
        let mut longest = [0xff; 10];
        longest[9] = 0x01;
        assert_eq!(read_signed_long(&mut &longest[..]), Ok(i64::MIN));
        longest[9] = 0x03;
        assert_eq!(
            read_signed_long(&mut &longest[..]).map_err(|e| e.kind),
            Err(DecodeErrorKind::VarintTooLong { bits: 64 })
        );
    }

    #[test]
    fn a_number_cut_short_is_refused() {
        let truncated = Err(DecodeErrorKind::Truncated { needed: 1, left: 0 }.into());
        assert_eq!(read_unsigned(&mut &[][..]), truncated);
        assert_eq!(read_unsigned(&mut &[0x80, 0xff][..]), truncated);
    }
}
