//! What the operating system says about this process.

use std::collections::BTreeMap;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

/// Gives the processor time of all threads so far; nothing where the system does not tell.
pub(super) fn processor_time() -> Duration {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return Duration::ZERO };
    duration(usage.user_time()) + duration(usage.system_time())
}

fn duration(time: TimeVal) -> Duration {
    let micros = time.tv_sec().saturating_mul(1_000_000).saturating_add(time.tv_usec());
    Duration::from_micros(u64::try_from(micros).unwrap_or_default())
}

/// Forgets the peak of resident memory, so that the next reading is of what comes now; tells whether the
/// system lets us.
///
/// *Source*: `proc_pid_clear_refs(5)`, value 5.
pub(super) fn reset_peak() -> bool {
    std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// Gives the peak of resident memory in bytes, where the system tells.
pub(super) fn peak_bytes() -> Option<u64> {
    status_bytes("VmHWM:")
}

/// Gives the resident memory now in bytes, where the system tells.
pub(super) fn resident_bytes() -> Option<u64> {
    status_bytes("VmRSS:")
}

fn status_bytes(field: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// Gives the processor time of the threads that live, summed by what they are called, where the system tells.
///
/// *Source*: the kernel's `scheduler/sched-stats`, `schedstat` of a task: nanoseconds on a processor come first.
pub(super) fn thread_times() -> BTreeMap<String, Duration> {
    let mut times = BTreeMap::<String, Duration>::new();
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return times };
    for task in tasks.flatten() {
        let read = |file: &str| std::fs::read_to_string(task.path().join(file)).ok();
        let (Some(name), Some(times_of_task)) = (read("comm"), read("schedstat")) else { continue };
        let nanos = times_of_task.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0);
        *times.entry(name.trim().to_owned()).or_default() += Duration::from_nanos(nanos);
    }
    times
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_after_work_has_grown() {
        let before = processor_time();
        let mut sum = 0_u64;

        while processor_time() == before {
            sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(7));
        }

        assert!(processor_time() > before);
    }

    #[test]
    fn thread_times_named_thread_is_listed() {
        let (started, listed) = (std::sync::mpsc::channel(), std::sync::mpsc::channel::<()>());
        let thread = std::thread::Builder::new().name("meter-test".to_owned()).spawn(move || {
            started.0.send(()).unwrap();
            listed.1.recv().unwrap_err();
        });
        started.1.recv().unwrap();

        let times = thread_times();

        drop(listed.0);
        thread.unwrap().join().unwrap();
        assert!(times.contains_key("meter-test"), "{times:?}");
    }

    #[test]
    fn memory_of_a_live_process_is_over_a_page() {
        // Not compared with each other: another test of this process may forget the peak in between.
        assert!(peak_bytes().unwrap() > 4096);
        assert!(resident_bytes().unwrap() > 4096);
    }
}
