// husk: qcow2 images: how requests walk through the tables
#include "block/qcow2.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/bits.h"
#include "base/check.h"
#include "block/qcow2_private.h"

namespace husk::block::qcow2 {
namespace {
constexpr unsigned kMostPieces = 64;  // of one request at a time
constexpr std::uint64_t kZeroPiece = 256 * 1024;

void move_on(auto& job, std::uint64_t length) {
  job.position += length;
  while (length > 0 && job.span < job.request.spans.size()) {
    const std::uint64_t left = job.request.spans[job.span].size() - job.span_offset;
    if (length < left) {
      job.span_offset += length;
      return;
    }
    length -= left;
    ++job.span;
    job.span_offset = 0;
  }
}
}  // namespace

void cut_spans(std::span<const core::BlockSpan> spans, std::size_t first, std::size_t offset, std::uint64_t length,
               std::vector<core::BlockSpan>& to) {
  for (std::size_t i = first; length > 0 && i < spans.size(); ++i, offset = 0) {
    const std::size_t piece = std::min<std::uint64_t>(spans[i].size() - offset, length);
    if (piece > 0) to.push_back(spans[i].subspan(offset, piece));
    length -= piece;
  }
}

void fill_zero(std::span<const core::BlockSpan> spans) {
  for (const core::BlockSpan span : spans)
    if (!span.empty()) std::memset(span.data(), 0, span.size());
}

core::BlockInfo Image::info() const {
  core::BlockInfo info = file_->info();
  info.size = meta_.header.size;
  info.optimal_io = static_cast<std::uint32_t>(cluster_);
  info.discard_unit = static_cast<std::uint32_t>(cluster_);
  info.read_only = options_.read_only;
  info.can_discard = !options_.read_only;
  info.fast_zeroes = meta_.header.version >= 3;
  info.volatile_cache = !options_.writethrough;
  return info;
}

void Image::submit(core::BlockRequest request) {
  using core::BlockOp;
  HUSK_CHECK(!closed_);
  const bool writes = request.op != BlockOp::read && request.op != BlockOp::flush;
  if (writes && options_.read_only) return request.completion(EROFS);
  if (request.op == BlockOp::flush) {
    if (options_.read_only) return request.completion(0);
  } else {
    if (!range_within(request.offset, request.length, meta_.header.size)) return request.completion(EINVAL);
    if (request.length == 0) return request.completion(0);
  }
  if (writes && corrupt_) return request.completion(EIO);
  if ((request.flags & core::BlockFlags::kCompressed) && request.op == BlockOp::write) {
    const std::uint64_t end = request.offset + request.length;
    if (external_) return request.completion(ENOTSUP);
    if (request.offset % cluster_ != 0 || (end % cluster_ != 0 && end != meta_.header.size))
      return request.completion(EINVAL);
  }
  if (exclusive_ || !exclusives_.empty()) {
    held_.push_back(std::move(request));
    return;
  }
  begin(std::move(request));
}

void Image::begin(core::BlockRequest request) {
  ++requests_;
  auto* job = new Job{.image = *this, .request = std::move(request)};
  const core::BlockRequest& r = job->request;
  if (r.op == core::BlockOp::flush) {
    commit([job](int error) {
      job->error = error;
      job->image.complete(*job);
    });
    return;
  }
  job->position = r.offset;
  job->end = r.offset + r.length;
  if (r.op == core::BlockOp::discard) {
    // Whole clusters only; the last one may be cut off by the end of the disk.
    job->position = align_up(job->position, cluster_);
    if (job->end != meta_.header.size) job->end = align_down(job->end, cluster_);
    // Version 2 has no zero clusters: under a discarded one the backing would shine through.
    if (job->position >= job->end || (meta_.header.version < 3 && backing_)) job->position = job->end;
  }
  advance(*job);
}

void Image::advance(Job& job) {
  if (job.walking) return;
  job.walking = true;
  while (!job.waiting && job.error == 0 && job.position < job.end && job.pending < kMostPieces)
    if (!step(job)) break;
  job.walking = false;
  if (job.pending == 0 && !job.waiting && (job.error != 0 || job.position >= job.end)) complete(job);
}

bool Image::step(Job& job) {
  switch (job.request.op) {
    case core::BlockOp::read: return step_read(job);
    case core::BlockOp::write:
      return (job.request.flags & core::BlockFlags::kCompressed) ? step_write_compressed(job) : step_write(job);
    default: return step_zero(job);
  }
}

void Image::job_failed(Job& job, int error) {
  if (job.error == 0) job.error = error;
}

void Image::complete(Job& job) {
  const bool writes = job.request.op == core::BlockOp::write || job.request.op == core::BlockOp::write_zeroes;
  const bool stable = options_.writethrough || (job.request.flags & core::BlockFlags::kFua);
  if (writes && stable && !job.internal && job.error == 0 && !job.committed) {
    job.committed = true;
    job.waiting = true;
    commit([this, &job](int error) {
      job.waiting = false;
      job.error = error;
      complete(job);
    });
    return;
  }
  const bool internal = job.internal;
  core::BlockCompletion completion = std::move(job.request.completion);
  const int error = job.error;
  delete &job;
  completion(error);
  if (!internal) request_ended();
}

void Image::request_ended() {
  HUSK_CHECK(requests_ > 0);
  if (--requests_ == 0) idle();
}

/// Called when something ended: starts what waits for the end of everything.
void Image::idle() {
  if (requests_ > 0 || commit_ || exclusive_) return;
  if (!exclusives_.empty()) return try_exclusive();
  auto drained = std::exchange(drained_, {});
  for (auto& done : drained) done();
}

void Image::drain(std::move_only_function<void()> done) {
  if (requests_ == 0 && !commit_ && !exclusive_ && exclusives_.empty())
    done();
  else
    drained_.push_back(std::move(done));
}

Image::Piece& Image::take_piece(Job& job, std::uint64_t host, std::uint64_t length) {
  if (free_pieces_.empty()) {
    all_pieces_.push_back(std::make_unique<Piece>());
    free_pieces_.push_back(all_pieces_.back().get());
  }
  Piece& piece = *free_pieces_.back();
  free_pieces_.pop_back();
  piece.job = &job;
  piece.host = host;
  piece.length = length;
  piece.spans.clear();
  piece.place = pieces_.insert(pieces_.end(), &piece);
  ++job.pending;
  return piece;
}

void Image::piece_done(Piece& piece, int error) {
  Job& job = *piece.job;
  pieces_.erase(piece.place);
  free_pieces_.push_back(&piece);
  --job.pending;
  if (error != 0) job_failed(job, error);
  advance(job);
}

/// Reads: tables are only looked at.
bool Image::step_read(Job& job) {
  job.waiting = true;
  find_slice(job.position, [this, &job](int error, Slice* slice) {
    job.waiting = false;
    const Hold hold(job);
    if (error != 0) {
      job_failed(job, error);
      return;
    }
    const Run run = look(slice, job.position, job.end - job.position);
    if (slice != nullptr) l2_cache_->unpin(*slice);
    const std::uint64_t guest = job.position;
    switch (run.kind) {
      case Kind::normal: {
        Piece& piece = take_piece(job, run.host, run.length);
        cut_spans(job.request.spans, job.span, job.span_offset, run.length, piece.spans);
        move_on(job, run.length);
        data_node().submit({.op = core::BlockOp::read,
                            .flags = 0,
                            .offset = run.host,
                            .length = run.length,
                            .spans = piece.spans,
                            .completion = [this, &piece](int result) { piece_done(piece, result); }});
        break;
      }
      case Kind::unallocated:
        if (backing_) {
          read_backing(job, guest, run.length);
          break;
        }
        [[fallthrough]];
      case Kind::zero: {
        std::vector<core::BlockSpan> spans;
        cut_spans(job.request.spans, job.span, job.span_offset, run.length, spans);
        fill_zero(spans);
        move_on(job, run.length);
        break;
      }
      case Kind::compressed: read_compressed(job, run.entry, guest, run.length); break;
      case Kind::invalid:
        mark_corrupt(fmt::format("the L2 entry for guest offset {:#x} is invalid", guest));
        job_failed(job, EIO);
        break;
    }
  });
  return true;
}

void Image::read_backing(Job& job, std::uint64_t guest, std::uint64_t length) {
  const std::uint64_t size = backing_->info().size;
  const std::uint64_t there = guest >= size ? 0 : std::min(length, size - guest);
  if (there < length) {
    // The backing may be the smaller disk; beyond its end are zeroes.
    std::vector<core::BlockSpan> spans;
    cut_spans(job.request.spans, job.span, job.span_offset, length, spans);
    std::uint64_t skip = there;
    for (core::BlockSpan& span : spans) {
      const std::size_t cut = std::min<std::uint64_t>(skip, span.size());
      span = span.subspan(cut);
      skip -= cut;
    }
    fill_zero(spans);
  }
  if (there > 0) {
    Piece& piece = take_piece(job, 0, 0);
    cut_spans(job.request.spans, job.span, job.span_offset, there, piece.spans);
    move_on(job, length);
    backing_->submit({.op = core::BlockOp::read,
                      .flags = 0,
                      .offset = guest,
                      .length = there,
                      .spans = piece.spans,
                      .completion = [this, &piece](int result) { piece_done(piece, result); }});
  } else {
    move_on(job, length);
  }
}

void Image::read_compressed(Job& job, std::uint64_t entry, std::uint64_t guest, std::uint64_t length) {
  const std::uint64_t within = guest & (cluster_ - 1);
  const auto copy_out = [](std::span<const std::uint8_t> from, const std::vector<core::BlockSpan>& spans) {
    for (const core::BlockSpan span : spans) {
      std::memcpy(span.data(), from.data(), span.size());
      from = from.subspan(span.size());
    }
  };
  if (decompressed_entry_ == entry) {
    std::vector<core::BlockSpan> spans;
    cut_spans(job.request.spans, job.span, job.span_offset, length, spans);
    copy_out(std::span(decompressed_).subspan(within, length), spans);
    return move_on(job, length);
  }
  const auto place = meta_.header.compressed_place(entry);
  if (external_ || place.offset + place.length > static_cast<std::uint64_t>(INT64_MAX)) {
    mark_corrupt(fmt::format("the compressed cluster for guest offset {:#x} cannot be there", guest));
    return job_failed(job, EIO);
  }
  Piece& piece = take_piece(job, place.offset, place.length);
  cut_spans(job.request.spans, job.span, job.span_offset, length, piece.spans);
  move_on(job, length);
  struct Work {
    std::vector<std::uint8_t> in, out;
    core::BlockSpan span;
    bool good = false;
  };
  auto work = std::make_shared<Work>();
  work->in.resize(place.length);
  work->span = work->in;
  file_->submit(
      {.op = core::BlockOp::read,
       .flags = 0,
       .offset = place.offset,
       .length = place.length,
       .spans = {&work->span, 1},
       .completion = [this, &piece, work, entry, within, length, copy_out](int error) {
         if (error != 0) return piece_done(piece, error);
         work->out.resize(cluster_);
         context_.workers().run(
             [work, method = meta_.header.compression] { work->good = decompress(method, work->in, work->out); },
             [this, &piece, work, entry, within, length, copy_out] {
               if (!work->good) return piece_done(piece, EIO);
               copy_out(std::span(work->out).subspan(within, length), piece.spans);
               // Not if it was freed meanwhile: its place may get other content under the same entry.
               if (std::none_of(frees_.begin(), frees_.end(), [&](const auto& range) {
                     return piece.host < range.first + range.second && range.first < piece.host + piece.length;
                   })) {
                 decompressed_entry_ = entry;
                 decompressed_ = std::move(work->out);
               }
               piece_done(piece, 0);
             });
       }});
}

/// True, and `job` will be called again, if the cluster at `start` is being given space by another write.
bool Image::wait_for_growth(Job& job, std::uint64_t start, std::uint64_t end) {
  for (Growth* growth : growths_) {
    if (growth->start < end && start < growth->start + growth->clusters * cluster_) {
      job.waiting = true;
      growth->waiting.push_back(&job);
      return true;
    }
  }
  return false;
}

bool Image::step_write(Job& job) {
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
    const std::uint64_t guest = job.position;
    // Another write may have begun to grow here while the table was loading.
    if (wait_for_growth(job, guest, guest + 1)) return l2_cache_->unpin(*slice);
    std::uint64_t limit = std::min(job.end, slice_end(guest));
    for (const Growth* growth : growths_)
      if (growth->start > guest && growth->start < limit) limit = growth->start;
    const Run run = look(slice, guest, limit - guest);
    if (run.kind == Kind::invalid) {
      l2_cache_->unpin(*slice);
      mark_corrupt(fmt::format("the L2 entry for guest offset {:#x} is invalid", guest));
      job_failed(job, EIO);
      return;
    }
    if (job.allocate_only) {
      // What has content, or a place, has what it needs; of a cluster that is empty in part nothing can be said.
      const Entry entry = load_entry(*slice, guest);
      if (run.kind == Kind::normal || run.kind == Kind::compressed || has_host(entry)) {
        job.position = std::min(limit, std::max(guest + run.length, align_down(guest, cluster_) + cluster_));
        return l2_cache_->unpin(*slice);
      }
      limit = guest + run.length;
    }
    if (run.kind != Kind::normal || !run.owned) {
      start_growth(job, *slice, guest, limit - guest);
      return;
    }
    l2_cache_->unpin(*slice);
    if (!external_) {
      for (std::uint64_t at = align_down(run.host, cluster_); at < run.host + run.length; at += cluster_) {
        if (!overlaps_metadata(at)) continue;
        mark_corrupt(fmt::format("guest offset {:#x} is mapped onto the image's own tables at {:#x}", guest, at));
        job_failed(job, EIO);
        return;
      }
    }
    Piece& piece = take_piece(job, run.host, run.length);
    cut_spans(job.request.spans, job.span, job.span_offset, run.length, piece.spans);
    move_on(job, run.length);
    data_node().submit({.op = core::BlockOp::write,
                        .flags = 0,
                        .offset = run.host,
                        .length = run.length,
                        .spans = piece.spans,
                        .completion = [this, &piece](int result) { piece_done(piece, result); }});
  });
  return true;
}

/// write_zeroes and discard.
bool Image::step_zero(Job& job) {
  const std::uint64_t guest = job.position;
  const bool to_end = job.end == meta_.header.size;
  const std::uint64_t unit_end = align_down(guest, subcluster_) + subcluster_;
  const bool whole = guest % subcluster_ == 0 && (job.end >= unit_end || to_end);
  if (!admit(job)) return false;
  if (wait_for_growth(job, guest, guest + 1)) return false;
  job.waiting = true;
  const bool needs_table = backing_ != nullptr || (meta_.l1[guest / meta_.header.l2_reach()] & kOffsetMask) != 0;
  const auto with_slice = [this, &job, guest, unit_end, whole, to_end](int error, Slice* slice) {
    job.waiting = false;
    const Hold hold(job);
    if (error != 0) {
      job_failed(job, error);
      return;
    }
    if (slice == nullptr) {
      // No table and no backing: zeroes already.
      job.position = std::min(job.end, align_down(guest, meta_.header.l2_reach()) + meta_.header.l2_reach());
      return;
    }
    if (wait_for_growth(job, guest, guest + 1)) return l2_cache_->unpin(*slice);
    std::uint64_t limit = std::min(job.end, slice_end(guest));
    for (const Growth* growth : growths_)
      if (growth->start > guest && growth->start < limit) limit = growth->start;
    const Run run = look(slice, guest, limit - guest);
    const bool zero_already = run.kind == Kind::zero || (run.kind == Kind::unallocated && !backing_);
    const bool unmap = job.request.op == core::BlockOp::discard || (job.request.flags & core::BlockFlags::kMayUnmap);
    const bool compressed_part =
        run.kind == Kind::compressed &&
        (guest % cluster_ != 0 || (limit < align_down(guest, cluster_) + cluster_ && limit != meta_.header.size));
    const bool by_table = whole && !compressed_part && (meta_.header.version >= 3 || (unmap && !backing_));
    if (run.kind == Kind::invalid) {
      mark_corrupt(fmt::format("the L2 entry for guest offset {:#x} is invalid", guest));
      job_failed(job, EIO);
    } else if (by_table) {
      const std::uint64_t end = to_end && limit == job.end ? limit : align_down(limit, subcluster_);
      change_zero_range(job, *slice, guest, end);
      job.position = end;
    } else if (zero_already) {
      job.position += run.length;
    } else if (job.request.op == core::BlockOp::discard) {
      job.position = limit;
    } else if (job.request.flags & core::BlockFlags::kNoFallback) {
      job_failed(job, ENOTSUP);
    } else {
      std::uint64_t end = std::min(limit, guest + kZeroPiece);
      if (meta_.header.version >= 3)
        end = std::min({end, compressed_part ? align_down(guest, cluster_) + cluster_ : unit_end});
      struct Zeroes {
        std::vector<std::uint8_t> bytes;
        core::BlockSpan span;
      };
      auto zeroes = std::make_unique<Zeroes>();
      zeroes->bytes.resize(end - guest);
      zeroes->span = zeroes->bytes;
      job.position = end;
      ++job.pending;
      auto* write = new Job{.image = *this, .request = {}};
      write->request.op = core::BlockOp::write;
      write->request.offset = guest;
      write->request.length = end - guest;
      write->request.spans = {&zeroes->span, 1};
      write->request.completion = [this, &job, zeroes = std::move(zeroes)](int result) {
        --job.pending;
        if (result != 0) job_failed(job, result);
        advance(job);
      };
      write->position = guest;
      write->end = end;
      write->internal = true;
      l2_cache_->unpin(*slice);
      advance(*write);
      return;
    }
    l2_cache_->unpin(*slice);
  };
  if (needs_table)
    own_slice(guest, with_slice);
  else
    with_slice(0, nullptr);
  return true;
}

void Image::preallocate(std::uint64_t start, std::uint64_t end, core::BlockCompletion done) {
  HUSK_CHECK(start <= end && end <= meta_.header.size && !options_.read_only);
  ++requests_;
  auto* job = new Job{.image = *this, .request = {}};
  job->request.op = core::BlockOp::write;
  job->request.completion = std::move(done);
  job->position = start;
  job->end = end;
  job->allocate_only = true;
  advance(*job);
}

void Image::status(std::uint64_t offset, std::uint64_t length, StatusDone done) {
  if (offset >= meta_.header.size) return done(EINVAL, {});
  length = std::min(length, meta_.header.size - offset);
  find_slice(offset, [this, offset, length, done = std::move(done)](int error, Slice* slice) mutable {
    if (error != 0) return done(error, {});
    const Run run = look(slice, offset, length);
    if (slice != nullptr) l2_cache_->unpin(*slice);
    Extent extent{.length = run.length};
    switch (run.kind) {
      case Kind::unallocated: extent.zero = !backing_; break;
      case Kind::zero: extent.present = extent.zero = true; break;
      case Kind::normal:
        extent.present = extent.data = true;
        extent.host_offset = run.host;
        break;
      case Kind::compressed: extent.present = extent.data = extent.compressed = true; break;
      case Kind::invalid: return done(EIO, {});
    }
    done(0, extent);
  });
}

}  // namespace husk::block::qcow2
