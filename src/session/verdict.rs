//! What there is to say at the end of a mount, and the status of a run, once its command has ended.

use std::fmt::Write as _;
use std::path::Path;

use crate::blocks::{Skipped, Summary};
use crate::index::{FirstPass, Meanwhile, Report};

/// The command did not fail, but the copy is not what it seems: some blocks could not be read, or writes were refused;
/// or a domain that was off may have been started; or, with `-o strict`, the image was, or may have been, written while it
/// was read, or changed blocks were not copied.
pub(super) const NOT_AS_IT_SEEMS: u8 = 9;

/// The status of a run of `source`: the command's, or another if that is 0 and the copy is not what it seems. Says why.
/// `strict`: -o strict was given.
pub(super) fn verdict(status: u8, summary: &Summary, strict: bool, source: &Path) -> u8 {
    let source = source.display();
    if let Some(skipped) = &summary.skipped {
        log::warn!("{source}: {}", warning(skipped));
    }
    if status != 0 {
        return status;
    }
    if summary.latched {
        log::error!(
            "{source}: not all was written, although the command says nothing of that: see above"
        );
        return NOT_AS_IT_SEEMS;
    }
    if let Some((count, first)) = summary.unreadable {
        log::warn!(
            "{source}: {count} blocks cannot be read, the first is {first}: they are not copied"
        );
        return NOT_AS_IT_SEEMS;
    }
    if strict && summary.meanwhile != Meanwhile::Quiet {
        log::warn!("{source}: it was, or may have been, written meanwhile (-o strict)");
        return NOT_AS_IT_SEEMS;
    }
    if strict && summary.skipped.is_some() {
        return NOT_AS_IT_SEEMS;
    }
    0
}

fn warning(skipped: &Skipped) -> String {
    let Skipped {
        count,
        of,
        first,
        restore,
    } = skipped;
    if *restore {
        format!(
            "the command left {count} of {of} blocks as they were, the first is {first}: not all of the backup, or an \
             option like -u or --size-only?"
        )
    } else {
        format!(
            "the command skipped {count} of {of} changed blocks, the first is {first}: a target without times, or an \
             option like -u or --size-only?"
        )
    }
}

/// The last line, for several sources.
pub(super) fn describe_all(summaries: &[Summary]) -> String {
    let sum = |of: fn(&Summary) -> u64| summaries.iter().map(of).sum::<u64>();
    let mut line = format!("{} sources, {} blocks", summaries.len(), sum(|s| s.blocks));
    if summaries.iter().any(|summary| summary.report.is_some()) {
        let report = |of: fn(&Report) -> u64| {
            let reports = summaries
                .iter()
                .filter_map(|summary| summary.report.as_ref());
            reports.map(of).sum::<u64>()
        };
        // Writing to a string does not fail.
        let _ = write!(
            line,
            ", {} changed, {} zero, {} bytes read",
            report(|report| report.changed + report.new),
            report(|report| report.zero),
            report(|report| report.bytes_read),
        );
    }
    let skipped = sum(|s| s.skipped.map_or(0, |skipped| skipped.count));
    let unreadable = sum(|s| s.unreadable.map_or(0, |(count, _)| count));
    for (count, what) in [(skipped, "skipped"), (unreadable, "cannot be read")] {
        if count > 0 {
            let _ = write!(line, "; {count} {what}: see above");
        }
    }
    let quiet = |summary: &&Summary| summary.meanwhile == Meanwhile::Quiet;
    let written = summaries.len() - summaries.iter().filter(quiet).count();
    if written > 0 {
        let _ = write!(
            line,
            "; {written} of the sources were, or may have been, written meanwhile: see above"
        );
    }
    line
}

/// The rest of the line that every source ends with.
pub(super) fn describe(summary: &Summary) -> String {
    // Writing to a string does not fail.
    let mut line = format!("{} blocks", summary.blocks);
    if let Some(report) = &summary.report {
        let _ = write!(
            line,
            ", {} changed, {} zero, {} bytes read, {:.1} seconds",
            report.changed + report.new,
            report.zero,
            report.bytes_read,
            report.seconds
        );
        if let Some(FirstPass {
            settled,
            never_read,
        }) = report.first_pass
        {
            let _ = write!(
                line,
                "; not scanned: {settled} blocks have a digest now, {never_read} were never read"
            );
        }
    }
    if let Some(untouched) = summary.untouched {
        let _ = write!(
            line,
            "; {untouched} of them were neither written nor given a time"
        );
    }
    // Without an index that was just said.
    if let Some(skipped) = summary.skipped.filter(|skipped| !skipped.restore) {
        let Skipped { count, first, .. } = skipped;
        let _ = write!(
            line,
            "; {count} blocks with new times were not opened, the first is {first}"
        );
    }
    if let Some((count, first)) = summary.uncopied {
        let _ = write!(
            line,
            "; {count} others have not been read whole since they changed, the first is {first}"
        );
    }
    if let Some((count, first)) = summary.unreadable {
        let _ = write!(line, "; {count} cannot be read, the first is {first}");
    }
    line += match summary.meanwhile {
        Meanwhile::Quiet => "",
        Meanwhile::Unknown => {
            "; the image may have been written meanwhile, then the copy is of two moments"
        }
        Meanwhile::Written => {
            "; the image was written meanwhile, so the copy may be of two moments"
        }
    };
    line
}
