use std::time::Instant;
use meridian_state::*; use meridian_types::*; use meridian_wire::batch::*; use bytes::Bytes;
fn rss() -> u64 { std::fs::read_to_string("/proc/self/statm").unwrap().split(' ').nth(1).unwrap().parse::<u64>().unwrap()*4096 }
fn batch(pid: u64, seq: i32) -> Vec<u8> {
    let mut out = vec![0u8; 61+1000];
    out[8..12].copy_from_slice(&(49+1000i32).to_be_bytes()); out[12..16].copy_from_slice(&(-1i32).to_be_bytes()); out[16]=2;
    out[27..35].copy_from_slice(&1000i64.to_be_bytes()); out[35..43].copy_from_slice(&1000i64.to_be_bytes());
    out[43..51].copy_from_slice(&pid.to_be_bytes()); out[51..53].copy_from_slice(&0i16.to_be_bytes()); out[53..57].copy_from_slice(&seq.to_be_bytes()); out[57..61].copy_from_slice(&1i32.to_be_bytes());
    out
}
#[allow(clippy::disallowed_methods)]
fn main() {
    let parts: u64 = std::env::args().nth(1).and_then(|s| s.parse().ok()).unwrap_or(100_000);
    let topics: u64 = std::env::args().nth(2).and_then(|s| s.parse().ok()).unwrap_or(1000);
    let p = |n: u64| Partition { topic: TopicId(Uuid::from_u128(0x1234_5678_9abc_u128.wrapping_mul(1 + u128::from(n % topics)) )), index: (n / topics) as u32 };
    let mut state = State::new(ShardId(0)); let mut seq = Sequencer::new(LeaderEpoch(1));
    let r0 = rss(); let mut index = 0; 
    let (mut st, mut ap, mut enc, mut dec) = (0u128,0u128,0u128,0u128);
    for round in 0..3 {
      let (a0,b0)=(st,ap);
      for base in (0..parts).step_by(300) {
        let mut groups = Vec::new();
        let mut batches: Vec<_> = (base..(base+300).min(parts)).map(|n| (p(n), batch(n, round))).collect();
        let t = Instant::now();
        for (to, b) in &mut batches { let h = BatchHeader::parse(b).unwrap(); assert!(matches!(seq.stage(&state, *to, b, &h), Ok(Staged::Append{..}))); }
        st += t.elapsed().as_nanos();
        for (to, b) in batches { groups.push(AppendGroup { partition: to, batches: vec![Bytes::from(b)] }); }
        let c = Command::Append { now: TimestampMs(5), groups };
        let t = Instant::now(); let e = c.encode(); enc += t.elapsed().as_nanos();
        let t = Instant::now(); let c = Command::decode(&e).unwrap(); dec += t.elapsed().as_nanos();
        index += 1; let t = Instant::now();
        let Outcome::Append(r) = state.apply(LogPosition{term:Term(1), index: RaftIndex(index)}, &c) else {panic!()};
        ap += t.elapsed().as_nanos();
        let Command::Append{groups,..} = c else {panic!()}; seq.applied(&groups, &r);
      }
      println!("round {round}: stage {} ns, apply {} ns per batch; rss +{} MB", (st-a0)/parts as u128, (ap-b0)/parts as u128, (rss()-r0)>>20);
    }
    println!("encode {} ns decode {} ns per group", enc/(3*parts as u128), dec/(3*parts as u128));
    let t = Instant::now(); let s = state.encode_snapshot(); let n: usize = s.iter().map(|b| b.len()).sum(); println!("snapshot {} KB, encode {:?}", n>>10, t.elapsed());
    let bytes = s.concat(); let t = Instant::now(); let back = State::decode_snapshot(&bytes).unwrap(); println!("decode {:?}", t.elapsed());
    let t = Instant::now(); assert_eq!(back.digest(), state.digest()); println!("2 digests {:?}", t.elapsed());
    let t = Instant::now(); println!("oldest {:?} in {:?}", state.oldest_index_needed(), t.elapsed());
    drop(back);
    // one hot partition with a million single chunks
    let mut state = State::new(ShardId(0)); let to = p(0); let r0 = rss(); let t = Instant::now();
    for i in 0..1_000_000u64 { let mut b = batch(7, i as i32); stamp(&mut b, Offset(i), LeaderEpoch(1)).unwrap();
      b[35..43].copy_from_slice(&(1_700_000_000_000i64 + i as i64).to_be_bytes());
      state.apply(LogPosition{term:Term(1), index: RaftIndex(1+i*3)}, &Command::Append{now:TimestampMs(5), groups: vec![AppendGroup{partition: to, batches: vec![Bytes::from(b)]}]}); }
    println!("1M chunks: {:?}, rss +{} MB", t.elapsed(), (rss()-r0)>>20);
    let ps = state.partition(to).unwrap();
    let t = Instant::now(); for i in 0..100_000u64 { std::hint::black_box(ps.spans(Offset(i*10), 1).unwrap()); } println!("spans {} ns", t.elapsed().as_nanos()/100_000);
    let t = Instant::now(); for i in 0..1000i64 { std::hint::black_box(ps.chunk_for_timestamp(TimestampMs(1_700_000_000_000 + i*1000), Offset(0))); } println!("timestamp {} ns", t.elapsed().as_nanos()/1000);
    let t = Instant::now(); let n = state.encode_snapshot().iter().map(|b| b.len()).sum::<usize>(); println!("snapshot {} KB in {:?}", n>>10, t.elapsed());
}
