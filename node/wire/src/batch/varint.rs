//! Zigzag variable-length numbers, as records use them (protobuf's `sint32` and `sint64`).

/// Bytes that `value` takes as a zigzag varint.
pub(super) fn len_i64(value: i64) -> usize {
    let bits = 64 - (zigzag(value) | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Appends `value` as a zigzag varint.
pub(super) fn put_i64(out: &mut Vec<u8>, value: i64) {
    let mut rest = zigzag(value);
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Undoes zigzag.
pub(super) fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

fn zigzag(value: i64) -> u64 {
    (value << 1 ^ value >> 63) as u64
}
