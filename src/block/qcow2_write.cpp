// husk: qcow2 images: writes that give clusters space (growth), and zeroes by table
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/bits.h"
#include "base/check.h"
#include "block/qcow2_private.h"

namespace husk::block::qcow2 {
namespace {
constexpr std::uint64_t kMostGrowth = 4u << 20;  // bytes of one growth
constexpr std::uint64_t kAllZeroBits = 0xffffffff00000000;
}  // namespace

/// Takes over the pin of `slice`.
void Image::start_growth(Job& job, Slice& slice, std::uint64_t guest, std::uint64_t length) {
  const std::uint64_t limit = guest + length;
  const Entry first = load_entry(slice, guest);
  const auto owned = [&](Entry entry) { return has_host(entry) && (entry.word & kCopied); };
  auto* growth = new Growth{.image = *this, .job = job, .slice = &slice};
  Growth& g = *growth;
  g.start = align_down(guest, cluster_);
  g.clusters = 1;
  g.in_place = owned(first);
  while (!g.in_place && g.clusters * cluster_ < kMostGrowth && g.start + g.clusters * cluster_ < limit &&
         !owned(load_entry(slice, g.start + g.clusters * cluster_)))
    ++g.clusters;
  g.data = guest;
  g.data_end = std::min(limit, g.start + g.clusters * cluster_);
  g.place = growths_.insert(growths_.end(), growth);
  ++job.pending;
  job.waiting = true;  // for its place, which decides how much of the request goes into this growth
  if (g.in_place) {
    growth_placed(g, 0, first.word & kOffsetMask, 1);
  } else if (external_) {
    // An external data file is laid out as the disk is.
    growth_placed(g, 0, g.start, g.clusters);
  } else {
    allocate(g.clusters, [this, &g](int error, std::uint64_t host, std::uint64_t clusters) {
      g.counted = error == 0;
      growth_placed(g, error, host, clusters);
    });
  }
}

void Image::growth_placed(Growth& g, int error, std::uint64_t host, std::uint64_t clusters) {
  Job& job = g.job;
  job.waiting = false;
  const Hold hold(job);
  if (error != 0) return end_growth(g, error);
  g.host = host;
  if (clusters < g.clusters) {
    g.clusters = clusters;
    g.data_end = std::min(g.data_end, g.start + clusters * cluster_);
  }
  // With subclusters only the touched ones need a value; unless the cluster moves, then all of it goes along.
  const auto unit = [&](std::uint64_t guest) {
    const Entry entry = load_entry(*g.slice, guest);
    const bool moves = !g.in_place && (has_host(entry) || (entry.word & kCompressed));
    return moves ? cluster_ : subcluster_;
  };
  g.copy = align_down(g.data, unit(g.data));
  g.copy_end = align_up(g.data_end, unit(g.data_end - 1));
  if (g.counted && host >= virgin_) {
    g.virgin = true;
    virgin_ = host + g.clusters * cluster_;
  }
  if (job.allocate_only) {
    job.position = g.data_end;
    // The data file of an external one reads as zeroes where it is new; so does our own, beyond what was ever written.
    if (g.virgin || external_) return growth_link(g, 0);
    g.copy = g.start;
    g.head.assign(g.clusters * cluster_, 0);
    return growth_write(g);
  }
  const auto zero = [&](std::uint64_t from, std::uint64_t to) {
    to = std::min(to, meta_.header.size);
    if (from >= to) return true;
    const Run run = look(g.slice, from, to - from);
    const bool bottom = !backing_ || from >= backing_->info().size;
    return run.length >= to - from && (run.kind == Kind::zero || (run.kind == Kind::unallocated && bottom));
  };
  g.head_zero = zero(g.copy, g.data);
  g.tail_zero = zero(g.data_end, g.copy_end);
  const std::uint64_t bytes = g.data_end - g.data;
  // Between head and tail, which come when they have been read.
  cut_spans(job.request.spans, job.span, job.span_offset, bytes, g.spans);
  std::uint64_t left = bytes;
  job.position += bytes;
  while (left > 0 && job.span < job.request.spans.size()) {
    const std::uint64_t here = job.request.spans[job.span].size() - job.span_offset;
    if (left < here) {
      job.span_offset += left;
      break;
    }
    left -= here;
    ++job.span;
    job.span_offset = 0;
  }
  // The job may go on with what lies behind. It cannot end before this growth does: that is pending.
  growth_read(g, false);
}

void Image::growth_read(Growth& g, bool tail) {
  const std::uint64_t from = tail ? g.data_end : g.copy;
  const std::uint64_t to = tail ? g.copy_end : g.data;
  std::vector<std::uint8_t>& buffer = tail ? g.tail : g.head;
  const bool zero = tail ? g.tail_zero : g.head_zero;
  const auto next = [this, &g, tail] {
    if (tail)
      growth_write(g);
    else
      growth_read(g, true);
  };
  if (from == to) return next();
  if (zero && g.virgin) {
    // The file has zeroes there.
    if (!tail) g.copy = g.data;
    return next();
  }
  buffer.resize(to - from);
  if (zero) return next();
  const std::uint64_t end = std::min(to, meta_.header.size);
  if (from >= end) return next();
  g.edge = core::BlockSpan(buffer).first(end - from);
  auto* read = new Job{.image = *this, .request = {}};
  read->request.offset = from;
  read->request.length = end - from;
  read->request.spans = {&g.edge, 1};
  read->request.completion = [this, &g, next](int error) {
    if (error != 0)
      end_growth(g, error);
    else
      next();
  };
  read->position = from;
  read->end = end;
  read->internal = true;
  advance(*read);
}

void Image::growth_write(Growth& g) {
  if (!g.head.empty()) g.spans.insert(g.spans.begin(), core::BlockSpan(g.head));
  if (!g.tail.empty()) g.spans.push_back(core::BlockSpan(g.tail));
  std::uint64_t length = 0;
  for (const core::BlockSpan span : g.spans) length += span.size();
  data_node().submit({.op = core::BlockOp::write,
                      .flags = 0,
                      .offset = g.host + (g.copy - g.start),
                      .length = length,
                      .spans = g.spans,
                      .completion = [this, &g](int error) { growth_link(g, error); }});
}

/// The data is in its place: the table may say so.
void Image::growth_link(Growth& g, int error) {
  if (error != 0) return end_growth(g, error);
  for (std::uint64_t n = 0; n < g.clusters; ++n) {
    const std::uint64_t guest = g.start + n * cluster_;
    const Entry old = load_entry(*g.slice, guest);
    Entry entry;
    if (!g.compressed.empty()) {
      entry.word = meta_.header.compressed_entry(g.compressed_host, g.compressed.size());
    } else {
      entry.word = (g.host + n * cluster_) | kCopied;
      if (entry_bytes_ == 16) {
        const bool moves = !g.in_place && (has_host(old) || (old.word & kCompressed));
        const std::uint64_t from = std::max(guest, align_down(g.data, subcluster_));
        const std::uint64_t to = std::min(guest + cluster_, align_up(g.data_end, subcluster_));
        const auto first = static_cast<unsigned>((from - guest) / subcluster_);
        const auto count = static_cast<unsigned>((to - from) / subcluster_);
        const std::uint64_t touched = moves ? mask_of(kSubclusters) : mask_of(count, first);
        entry.bitmap = ((old.word & kCompressed) ? 0 : old.bitmap) | touched;
        entry.bitmap &= ~(touched << 32);
      }
    }
    store_entry(*g.slice, guest, entry);
    if (!g.in_place) free_entry(old);
  }
  g.counted = false;
  end_growth(g, 0);
}

void Image::end_growth(Growth& g, int error) {
  Job& job = g.job;
  if (g.counted) free_later(g.host, g.clusters * cluster_);
  growths_.erase(g.place);
  l2_cache_->unpin(*g.slice);
  const std::vector<Job*> waiting = std::move(g.waiting);
  delete &g;
  --job.pending;
  if (error != 0) job_failed(job, error);
  advance(job);
  for (Job* other : waiting) {
    other->waiting = false;
    advance(*other);
  }
}

/// A whole cluster that is stored compressed, or as it is if that is not shorter.
bool Image::step_write_compressed(Job& job) {
  if (!admit(job)) return false;
  if (wait_for_growth(job, job.position, job.position + 1)) return false;
  job.waiting = true;
  own_slice(job.position, [this, &job](int error, Slice* slice) {
    job.waiting = false;
    const Hold hold(job);
    if (error != 0) {
      job_failed(job, error);
      return;
    }
    if (wait_for_growth(job, job.position, job.position + 1)) return l2_cache_->unpin(*slice);
    auto* growth = new Growth{.image = *this, .job = job, .slice = slice};
    Growth& g = *growth;
    g.start = g.data = g.copy = job.position;
    g.clusters = 1;
    g.data_end = g.copy_end = std::min(job.end, g.start + cluster_);
    g.place = growths_.insert(growths_.end(), growth);
    ++job.pending;
    const std::uint64_t bytes = g.data_end - g.data;
    std::vector<core::BlockSpan> spans;
    cut_spans(job.request.spans, job.span, job.span_offset, bytes, spans);
    g.head.resize(cluster_);
    std::uint8_t* to = g.head.data();
    for (const core::BlockSpan span : spans) to = std::copy(span.begin(), span.end(), to);
    job.position += bytes;
    std::uint64_t left = bytes;
    while (left > 0 && job.span < job.request.spans.size()) {
      const std::uint64_t here = job.request.spans[job.span].size() - job.span_offset;
      if (left < here) {
        job.span_offset += left;
        break;
      }
      left -= here;
      ++job.span;
      job.span_offset = 0;
    }
    context_.workers().run(
        [&g, method = meta_.header.compression, most = cluster_ - 1] { g.compressed = compress(method, g.head, most); },
        [this, &g] { place_compressed(g); });
  });
  return true;
}

void Image::place_compressed(Growth& g) {
  if (g.compressed.empty()) {
    // Does not shrink: an ordinary cluster. Its data is in `head` already.
    const Entry old = load_entry(*g.slice, g.start);
    g.in_place = has_host(old) && (old.word & kCopied);
    const auto placed = [this, &g](int error, std::uint64_t host, std::uint64_t) {
      if (error != 0) return end_growth(g, error);
      g.host = host;
      if (!g.in_place) {
        g.counted = true;
        if (host >= virgin_) virgin_ = host + cluster_;
      }
      growth_write(g);
    };
    if (g.in_place)
      placed(0, old.word & kOffsetMask, 1);
    else
      allocate(1, placed);
    return;
  }
  allocate_bytes(g.compressed.size(), [this, &g](int error, std::uint64_t host, std::uint64_t) {
    if (error != 0) return end_growth(g, error);
    g.compressed_host = host;
    virgin_ = std::max(virgin_, align_up(host + g.compressed.size(), cluster_));
    g.edge = g.compressed;
    file_->submit({.op = core::BlockOp::write,
                   .flags = 0,
                   .offset = host,
                   .length = g.compressed.size(),
                   .spans = {&g.edge, 1},
                   .completion = [this, &g](int result) {
                     if (result != 0)
                       free_entry({meta_.header.compressed_entry(g.compressed_host, g.compressed.size()), 0});
                     growth_link(g, result);
                   }});
  });
}

/// What `entry` becomes when guest range [start, end), a part or all of its cluster at `guest`, reads as zeroes.
Image::Entry Image::zeroed(const Job& job, Entry entry, std::uint64_t guest, std::uint64_t start, std::uint64_t end) {
  const bool unmap = job.request.op == core::BlockOp::discard || (job.request.flags & core::BlockFlags::kMayUnmap);
  const bool keeps = has_host(entry) && (entry.word & kCopied) && !unmap;
  const bool whole = start == guest && (end == guest + cluster_ || end == meta_.header.size);
  if (entry_bytes_ == 16) {
    if (whole) return keeps ? Entry{entry.word, kAllZeroBits} : Entry{0, kAllZeroBits};
    const auto first = static_cast<unsigned>((start - guest) / subcluster_);
    const auto last = static_cast<unsigned>((end - 1 - guest) / subcluster_);
    const std::uint64_t touched = mask_of(last - first + 1, first);
    return {entry.word, (entry.bitmap & ~touched) | touched << 32};
  }
  if (meta_.header.version < 3) return {0, 0};
  return keeps ? Entry{entry.word | kZero, 0} : Entry{kZero, 0};
}

void Image::change_zero_range(Job& job, Slice& slice, std::uint64_t start, std::uint64_t end) {
  for (std::uint64_t at = start; at < end;) {
    const std::uint64_t guest = align_down(at, cluster_);
    const std::uint64_t stop = std::min(end, guest + cluster_);
    const Entry old = load_entry(slice, guest);
    const bool nothing = !backing_ && old.word == 0 && old.bitmap == 0;  // zeroes already
    const Entry now = zeroed(job, old, guest, at, stop);
    if (!nothing && (now.word != old.word || now.bitmap != old.bitmap)) {
      store_entry(slice, guest, now);
      if ((now.word & ~kZero) != (old.word & ~kZero)) free_entry(old);
    }
    at = stop;
  }
  if (!external_) return;
  // A raw external data file must read like the disk; any other may at least give its space back.
  Piece& piece = take_piece(job, 0, 0);
  external_->submit({.op = meta_.header.raw_external_data() ? core::BlockOp::write_zeroes : core::BlockOp::discard,
                     .flags = core::BlockFlags::kMayUnmap,
                     .offset = start,
                     .length = end - start,
                     .spans = {},
                     .completion = [this, &piece](int error) { piece_done(piece, error); }});
}

}  // namespace husk::block::qcow2
