//! Here: what the threads of a loader do and for how long: time by activity, log-scale histograms of
//! latencies, what each thread is at now. Lock-free, nothing is allocated after the start.
//! Not here: what is slow, sentences, batches.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What a thread can be at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// It does not run.
    Off,
    /// A worker has no memory to fill; the consumer is busy elsewhere.
    Idle,
    /// Reads and checks encoded bytes.
    Read,
    /// Decodes an image.
    Decode,
    /// Cuts views and applies their operations.
    Augment,
    /// The consumer lends memory and takes a batch over.
    Deliver,
    /// The consumer waits for a batch.
    Wait,
}

const ACTIVITIES: [Activity; 7] = [
    Activity::Off,
    Activity::Idle,
    Activity::Read,
    Activity::Decode,
    Activity::Augment,
    Activity::Deliver,
    Activity::Wait,
];

/// The stages of a loader, in the order of the data.
pub const STAGES: [Activity; 4] = [Activity::Read, Activity::Decode, Activity::Augment, Activity::Deliver];

impl Activity {
    /// Lower-case name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Idle => "idle",
            Self::Read => "read",
            Self::Decode => "decode",
            Self::Augment => "augment",
            Self::Deliver => "deliver",
            Self::Wait => "wait",
        }
    }
}

/// Buckets for each power of two: a bucket is at most 1/8 wide, so its middle is off by 6 % at most.
const STEPS: usize = 8;

/// 2^10 ns is about a microsecond, 2^42 ns more than an hour; what lies outside goes into the last bucket
/// at that end.
const LEAST_BITS: u32 = 10;
const BUCKETS: usize = 32 * STEPS;

/// Counts of durations on a logarithmic scale.
struct Histogram([AtomicU64; BUCKETS]);

impl Default for Histogram {
    fn default() -> Self {
        Self(array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Histogram {
    fn add(&self, ns: u64) {
        if let Some(count) = self.0.get(bucket(ns)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn bucket(ns: u64) -> usize {
    let bits = ns.max(1 << LEAST_BITS).ilog2();
    // The three bits behind the leading one.
    let step = (ns.max(1 << LEAST_BITS) >> (bits - 3)) as usize & (STEPS - 1);
    ((bits - LEAST_BITS) as usize * STEPS + step).min(BUCKETS - 1)
}

/// The middle of a bucket in nanoseconds.
fn middle(bucket: usize) -> f64 {
    let octave = 1u64 << (bucket / STEPS + LEAST_BITS as usize);
    octave as f64 * (1.0 + ((bucket % STEPS) as f64 + 0.5) / STEPS as f64)
}

/// What one thread has done; on cache lines of its own, and written by that thread only.
#[repr(align(128))]
pub struct Track {
    origin: Instant,
    /// Activity in the upper half, sample in the lower.
    now: AtomicU64,
    since_ns: AtomicU64,
    spent_ns: [AtomicU64; ACTIVITIES.len()],
    bytes: [AtomicU64; ACTIVITIES.len()],
    latencies: [Histogram; ACTIVITIES.len()],
}

impl Track {
    fn new(origin: Instant) -> Self {
        Self {
            origin,
            now: AtomicU64::new(0),
            since_ns: AtomicU64::new(0),
            spent_ns: Default::default(),
            bytes: Default::default(),
            latencies: array::from_fn(|_| Histogram::default()),
        }
    }

    fn elapsed_ns(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }

    /// The thread turns to something else, for sample `id` where that has a meaning.
    pub fn enter(&self, activity: Activity, id: u32) {
        let now_ns = self.elapsed_ns();
        let since_ns = self.since_ns.swap(now_ns, Ordering::Relaxed);
        let before = self.now.swap((activity as u64) << 32 | u64::from(id), Ordering::Relaxed);
        let (before, spent_ns) = ((before >> 32) as usize, now_ns.saturating_sub(since_ns));
        if let Some(total) = self.spent_ns.get(before) {
            total.fetch_add(spent_ns, Ordering::Relaxed);
        }
        // The consumer's stage comes in pieces around the wait; `Meter::answer` adds them as one.
        let whole = before != Activity::Deliver as usize;
        if let Some(histogram) = self.latencies.get(before).filter(|_| whole) {
            histogram.add(spent_ns);
        }
    }

    /// Bytes that came out of an activity.
    pub fn count_bytes(&self, activity: Activity, bytes: usize) {
        if let Some(total) = self.bytes.get(activity as usize) {
            total.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }

    /// What the thread is at, for which sample, and for how long.
    fn doing(&self) -> (Activity, u32, Duration) {
        let since_ns = self.since_ns.load(Ordering::Relaxed);
        let now = self.now.load(Ordering::Relaxed);
        let activity = ACTIVITIES.get((now >> 32) as usize).copied().unwrap_or(Activity::Off);
        (activity, now as u32, Duration::from_nanos(self.elapsed_ns().saturating_sub(since_ns)))
    }

    /// Nanoseconds of an activity, with what has passed of it now.
    fn spent_ns(&self, activity: Activity) -> u64 {
        let before = self.spent_ns.get(activity as usize).map_or(0, |total| total.load(Ordering::Relaxed));
        let (now, _, passed) = self.doing();
        before + if now == activity { passed.as_nanos() as u64 } else { 0 }
    }
}

/// All threads of a loader, from stream to stream.
pub struct Meter {
    workers: Vec<Track>,
    consumer: Track,
    /// When the consumer asked for the batch that it waits for.
    asked_ns: AtomicU64,
    images: AtomicU64,
    replaced: AtomicU64,
}

/// What one stage has done.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct StageStats {
    /// Seconds of work, summed over threads.
    pub busy_s: f64,
    /// How often: images; for delivery, batches.
    pub count: u64,
    /// Bytes that came out: encoded, decoded, of views.
    pub bytes: u64,
    /// Median seconds of one, within 6 %; 0 before the first. For delivery: the consumer's wait included.
    pub p50_s: f64,
    /// 99th percentile of the same.
    pub p99_s: f64,
}

/// What a loader has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stats {
    /// Samples in the batches that were taken.
    pub images: u64,
    /// Those of them that stand in for damaged ones.
    pub replaced: u64,
    /// Worker threads.
    pub threads: usize,
    /// Seconds that worker threads have run, summed over them.
    pub threads_s: f64,
    /// Seconds of these in which there was no memory to fill.
    pub idle_s: f64,
    /// Seconds from the consumer's first batch on, while the stream was open.
    pub consumer_s: f64,
    /// Seconds of these in which it waited.
    pub waited_s: f64,
    /// As in `STAGES`.
    pub stages: [StageStats; STAGES.len()],
}

impl Meter {
    /// For so many worker threads.
    pub fn new(threads: usize) -> Self {
        let origin = Instant::now();
        Self {
            workers: (0..threads).map(|_| Track::new(origin)).collect(),
            consumer: Track::new(origin),
            asked_ns: AtomicU64::new(0),
            images: AtomicU64::new(0),
            replaced: AtomicU64::new(0),
        }
    }

    /// Worker threads.
    pub fn threads(&self) -> usize {
        self.workers.len()
    }

    /// The track of a worker.
    pub fn worker(&self, number: usize) -> Option<&Track> {
        self.workers.get(number)
    }

    /// The track of the consumer.
    pub fn consumer(&self) -> &Track {
        &self.consumer
    }

    /// The consumer asks for a batch.
    pub fn ask(&self) {
        self.consumer.enter(Activity::Deliver, 0);
        self.asked_ns.store(self.consumer.since_ns.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// It has its batch and goes about its own work.
    pub fn answer(&self) {
        self.consumer.enter(Activity::Idle, 0);
        let now_ns = self.consumer.since_ns.load(Ordering::Relaxed);
        if let Some(histogram) = self.consumer.latencies.get(Activity::Deliver as usize) {
            histogram.add(now_ns.saturating_sub(self.asked_ns.load(Ordering::Relaxed)));
        }
    }

    /// A batch of so many rows, of which some stand in for damaged samples, was taken.
    pub fn count_images(&self, images: usize, replaced: usize) {
        self.images.fetch_add(images as u64, Ordering::Relaxed);
        self.replaced.fetch_add(replaced as u64, Ordering::Relaxed);
    }

    /// No thread runs any more.
    pub fn stop(&self) {
        for track in self.workers.iter().chain([&self.consumer]) {
            track.enter(Activity::Off, 0);
        }
    }

    /// What each worker is at: the activity, the sample and since when.
    pub fn doing(&self) -> Vec<(Activity, u32, Duration)> {
        self.workers.iter().map(Track::doing).collect()
    }

    /// What has been done so far.
    pub fn stats(&self) -> Stats {
        let spent_s = |tracks: &[Track], activities: &[Activity]| -> f64 {
            let each = tracks.iter().flat_map(|track| activities.iter().map(|&a| track.spent_ns(a)));
            each.sum::<u64>() as f64 * 1e-9
        };
        let (workers, consumer) = (&self.workers[..], std::slice::from_ref(&self.consumer));
        Stats {
            images: self.images.load(Ordering::Relaxed),
            replaced: self.replaced.load(Ordering::Relaxed),
            threads: workers.len(),
            threads_s: spent_s(workers, &ACTIVITIES[1..]),
            idle_s: spent_s(workers, &[Activity::Idle]),
            consumer_s: spent_s(consumer, &ACTIVITIES[1..]),
            waited_s: spent_s(consumer, &[Activity::Wait]),
            stages: STAGES.map(|stage| {
                let tracks = if stage == Activity::Deliver { consumer } else { workers };
                stage_stats(tracks, stage, spent_s(tracks, &[stage]))
            }),
        }
    }
}

fn stage_stats(tracks: &[Track], stage: Activity, busy_s: f64) -> StageStats {
    let mut counts = [0u64; BUCKETS];
    let mut bytes = 0;
    for track in tracks {
        bytes += track.bytes.get(stage as usize).map_or(0, |total| total.load(Ordering::Relaxed));
        let histogram = track.latencies.get(stage as usize);
        for (sum, count) in counts.iter_mut().zip(histogram.iter().flat_map(|histogram| &histogram.0)) {
            *sum += count.load(Ordering::Relaxed);
        }
    }
    let count = counts.iter().sum();
    let quantile = |share| quantile_s(&counts, count, share);
    StageStats { busy_s, count, bytes, p50_s: quantile(0.5), p99_s: quantile(0.99) }
}

/// Seconds that a share of the durations does not exceed: the middle of the bucket with the
/// ceil(share * count)-th of them; 0 when there are none.
fn quantile_s(counts: &[u64; BUCKETS], count: u64, share: f64) -> f64 {
    let rank = ((share * count as f64).ceil() as u64).max(1);
    let mut below = 0;
    let found = counts.iter().position(|&here| {
        below += here;
        below >= rank
    });
    found.map_or(0.0, |bucket| middle(bucket) * 1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread::sleep;

    #[test]
    fn a_bucket_holds_its_middle_and_is_narrow() {
        for number in 0..BUCKETS {
            assert_eq!(bucket(middle(number) as u64), number);
        }
        for ns in (10..41).flat_map(|bits| (0..50u64).map(move |i| (1 << bits) + ((i << bits) / 50))) {
            let error = middle(bucket(ns)) / ns as f64 - 1.0;
            assert!(error.abs() < 1.0 / 16.0 + 1e-3, "{ns}: {error}");
        }
        assert_eq!((bucket(0), bucket(u64::MAX)), (0, BUCKETS - 1));
    }

    #[test]
    fn quantiles_are_those_of_the_sorted_durations() {
        let histogram = Histogram::default();
        let mut durations: Vec<u64> = (1..=1000).map(|i| i * i * 2000).collect();
        durations.iter().for_each(|&ns| histogram.add(ns));
        durations.sort_unstable();
        let counts = array::from_fn(|i| histogram.0[i].load(Ordering::Relaxed));
        for (share, rank) in [(0.5, 500), (0.99, 990), (1.0, 1000), (0.0, 1)] {
            let exact = durations[rank - 1] as f64 * 1e-9;
            let found = quantile_s(&counts, 1000, share);
            assert!((found / exact - 1.0).abs() < 0.07, "{share}: {found} for {exact}");
        }
        assert_eq!(quantile_s(&[0; BUCKETS], 0, 0.5), 0.0);
    }

    #[test]
    fn time_goes_to_what_a_thread_is_at() {
        let meter = Meter::new(2);
        let track = meter.worker(0).unwrap();
        assert!(meter.worker(2).is_none());
        assert_eq!(meter.stats().threads_s, 0.0);
        track.enter(Activity::Idle, 0);
        sleep(Duration::from_millis(5));
        track.enter(Activity::Read, 7);
        sleep(Duration::from_millis(20));
        let (activity, id, since) = meter.doing()[0];
        assert_eq!((activity, id), (Activity::Read, 7));
        assert!(since >= Duration::from_millis(20));
        // What is not finished yet counts already, but not as one that is done.
        let running = meter.stats();
        assert!(running.stages[0].busy_s >= 0.02 && running.stages[0].count == 0, "{running:?}");
        track.enter(Activity::Decode, 7);
        track.count_bytes(Activity::Read, 1000);
        meter.stop();
        let stats = meter.stats();
        assert_eq!((stats.stages[0].count, stats.stages[1].count, stats.stages[2].count), (1, 1, 0));
        assert_eq!((stats.stages[0].bytes, stats.stages[1].bytes), (1000, 0));
        assert!((stats.stages[0].p50_s / stats.stages[0].busy_s - 1.0).abs() < 0.07, "{stats:?}");
        assert!(stats.idle_s >= 0.005 && stats.idle_s < stats.threads_s);
        let parts = stats.idle_s + stats.stages[0].busy_s + stats.stages[1].busy_s;
        assert!((stats.threads_s - parts).abs() < 1e-6);
        sleep(Duration::from_millis(5));
        assert_eq!(meter.stats(), stats, "nothing runs any more");
    }

    #[test]
    fn the_consumer_is_kept_by_waiting_and_by_delivery() {
        let meter = Meter::new(0);
        meter.ask();
        meter.consumer().enter(Activity::Wait, 0);
        sleep(Duration::from_millis(30));
        meter.consumer().enter(Activity::Deliver, 0);
        meter.answer();
        meter.count_images(8, 1);
        let stats = meter.stats();
        let deliver = stats.stages[3];
        assert_eq!((deliver.count, stats.images, stats.replaced), (1, 8, 1));
        assert!(stats.waited_s >= 0.03 && deliver.busy_s < stats.waited_s, "{stats:?}");
        assert!((deliver.p50_s / (stats.waited_s + deliver.busy_s) - 1.0).abs() < 0.07, "{stats:?}");
    }
}
