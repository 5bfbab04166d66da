//! What is written to the region, and whether what is read is that.

use meridian_compat::raw::plain_records;

const RECORD_BYTES: usize = 500;

/// What record `n` of a partition is.
pub(super) fn value(partition: i32, n: i64) -> Vec<u8> {
    let mut value = format!("{partition} {n} ").into_bytes();
    let mut noise = (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ partition as u64;
    while value.len() < RECORD_BYTES {
        noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        value.extend_from_slice(&noise.to_be_bytes());
    }
    value
}

/// Holds the records from `next` on against what was written. Gives the offset behind them.
pub(super) fn check(partition: i32, next: i64, bytes: &[u8]) -> Result<i64, String> {
    let (records, _) = plain_records(bytes).map_err(|e| format!("partition {partition} at {next}: {e}"))?;
    let mut behind = next;
    for record in records.iter().filter(|record| record.offset >= next) {
        if record.offset != behind
            || record.value.as_deref() != Some(value(partition, record.offset).as_slice())
        {
            return Err(format!(
                "partition {partition}: at {behind} lies record {}, which is not what was written",
                record.offset
            ));
        }
        behind += 1;
    }
    Ok(behind)
}
