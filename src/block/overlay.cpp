// husk: copy-on-write in memory (`snapshot=on`): writes stay here, reads of what was not written come from below
#include "block/overlay.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/bits.h"

namespace husk::block {

struct Overlay::Work {
  core::BlockRequest request;
  std::vector<std::uint8_t> head, tail;  // blocks that are written in part, from below
  core::BlockSpan span;
};

Overlay::Overlay(std::unique_ptr<Node> below, std::uint64_t size)
    : below_(std::move(below)),
      size_(size),
      below_size_(below_ ? std::min(size, below_->info().size) : 0),
      name_(below_ ? below_->name() : "memory") {}

core::BlockInfo Overlay::info() const {
  core::BlockInfo info;
  info.size = size_;
  info.optimal_io = kBlock;
  info.discard_unit = kBlock;
  info.can_discard = info.fast_zeroes = true;
  info.volatile_cache = false;
  return info;
}

bool Overlay::zero_below(std::uint64_t offset) const { return offset >= below_size_; }

void Overlay::finish(core::BlockCompletion& completion, int error) {
  completion(error);
  if (--in_flight_ > 0) return;
  auto drained = std::exchange(drained_, {});
  for (auto& done : drained) done();
}

void Overlay::submit(core::BlockRequest request) {
  using core::BlockOp;
  if (request.op == BlockOp::flush) return request.completion(0);
  const bool writes = request.op != BlockOp::read;
  const auto end = checked_add<std::uint64_t>(request.offset, request.length);
  if (!end || (*end > size_ && !growable_)) return request.completion(EINVAL);
  if (request.flags & core::BlockFlags::kCompressed) return request.completion(ENOTSUP);
  if (request.length == 0) return request.completion(0);
  if (writes && *end > size_ && request.op != BlockOp::discard) size_ = *end;
  ++in_flight_;
  if (!writes) return read(std::move(request));
  auto work = std::make_shared<Work>();
  work->request = std::move(request);
  write(std::move(work));
}

void Overlay::read(core::BlockRequest request) {
  struct Pieces {
    core::BlockRequest request;
    std::vector<std::vector<core::BlockSpan>> lists;
    unsigned pending = 1;
    int error = 0;
  };
  auto pieces = std::make_shared<Pieces>();
  pieces->request = std::move(request);
  const core::BlockRequest& r = pieces->request;
  std::size_t span = 0, within = 0;
  const auto take = [&](std::uint64_t length) {
    std::vector<core::BlockSpan> list;
    while (length > 0) {
      const std::size_t part = std::min<std::uint64_t>(r.spans[span].size() - within, length);
      if (part > 0) list.push_back(r.spans[span].subspan(within, part));
      within += part;
      length -= part;
      if (within == r.spans[span].size()) {
        ++span;
        within = 0;
      }
    }
    return list;
  };
  struct Below {
    std::uint64_t offset, length;
    std::size_t list;
  };
  std::vector<Below> below;
  for (std::uint64_t at = r.offset, end = r.offset + r.length; at < end;) {
    const std::uint64_t stop = std::min(end, align_down(at, kBlock) + kBlock);
    const auto found = blocks_.find(at / kBlock);
    if (found != blocks_.end() || zero_below(at)) {
      const std::uint8_t* from = found != blocks_.end() && found->second ? found->second.get() + at % kBlock : nullptr;
      for (const core::BlockSpan part : take(stop - at)) {
        if (from == nullptr)
          std::memset(part.data(), 0, part.size());
        else
          std::memcpy(part.data(), std::exchange(from, from + part.size()), part.size());
      }
      at = stop;
      continue;
    }
    std::uint64_t until = stop;
    while (until < end && until < below_size_ && !blocks_.contains(until / kBlock))
      until = std::min(end, until + kBlock);
    until = std::min(until, below_size_);
    pieces->lists.push_back(take(until - at));
    below.push_back({at, until - at, pieces->lists.size() - 1});
    at = until;
  }
  const auto one_done = [this, pieces](int error) {
    if (error != 0) pieces->error = error;
    if (--pieces->pending == 0) finish(pieces->request.completion, pieces->error);
  };
  pieces->pending += static_cast<unsigned>(below.size());
  for (const Below& piece : below)
    below_->submit({.op = core::BlockOp::read,
                    .flags = 0,
                    .offset = piece.offset,
                    .length = piece.length,
                    .spans = pieces->lists[piece.list],
                    .completion = one_done});
  one_done(0);
}

void Overlay::write(std::shared_ptr<Work> work) {
  core::BlockRequest& r = work->request;
  const std::uint64_t end = r.offset + r.length;
  // A block that is written in part needs its rest first.
  const auto needs = [&](std::uint64_t block, const std::vector<std::uint8_t>& have) {
    const std::uint64_t start = block * kBlock;
    const bool part = r.offset > start || (end < start + kBlock && end < size_);
    return have.empty() && part && !blocks_.contains(block) && !zero_below(start);
  };
  std::vector<std::uint8_t>* into = nullptr;
  std::uint64_t block = r.offset / kBlock;
  if (needs(block, work->head))
    into = &work->head;
  else if (block = (end - 1) / kBlock; block != r.offset / kBlock && needs(block, work->tail))
    into = &work->tail;
  if (into == nullptr) {
    store(*work);
    return finish(r.completion, 0);
  }
  into->resize(kBlock);
  work->span = core::BlockSpan(*into).first(std::min(kBlock, below_size_ - block * kBlock));
  below_->submit({.op = core::BlockOp::read,
                  .flags = 0,
                  .offset = block * kBlock,
                  .length = work->span.size(),
                  .spans = {&work->span, 1},
                  .completion = [this, work](int error) {
                    if (error != 0)
                      finish(work->request.completion, error);
                    else
                      write(work);
                  }});
}

void Overlay::store(Work& work) {
  const core::BlockRequest& r = work.request;
  const bool data = r.op == core::BlockOp::write;
  std::size_t span = 0, within = 0;
  for (std::uint64_t at = r.offset, end = r.offset + r.length; at < end;) {
    const std::uint64_t number = at / kBlock, start = number * kBlock;
    const std::uint64_t stop = std::min(end, start + kBlock);
    const bool whole = at == start && (stop == start + kBlock || stop >= size_);
    const auto [place, fresh] = blocks_.try_emplace(number);
    Block& block = place->second;
    if (!data && whole) {
      block.reset();
      at = stop;
      continue;
    }
    if (!block) {
      block = std::make_unique<std::uint8_t[]>(kBlock);
      // Another request may have made the block while this one read from below; then there is nothing to fill in here.
      const auto& filler = number == r.offset / kBlock ? work.head : work.tail;
      if (fresh && !filler.empty()) std::memcpy(block.get(), filler.data(), kBlock);
    }
    if (!data) {
      std::memset(block.get() + (at - start), 0, stop - at);
    } else {
      std::uint8_t* to = block.get() + (at - start);
      for (std::uint64_t left = stop - at; left > 0;) {
        const std::size_t part = std::min<std::uint64_t>(r.spans[span].size() - within, left);
        if (part > 0) std::memcpy(to, r.spans[span].data() + within, part);
        to += part;
        within += part;
        left -= part;
        if (within == r.spans[span].size()) {
          ++span;
          within = 0;
        }
      }
    }
    at = stop;
  }
}

void Overlay::drain(std::move_only_function<void()> done) {
  if (in_flight_ == 0)
    done();
  else
    drained_.push_back(std::move(done));
}

void Overlay::status(std::uint64_t offset, std::uint64_t length, StatusDone done) {
  if (offset >= size_) {
    if (!growable_) return done(EINVAL, {});
    return done(0, {.length = std::max<std::uint64_t>(length, 1), .present = true, .zero = true});
  }
  length = std::min(length, size_ - offset);
  const auto kind = [&](std::uint64_t block) {
    const auto found = blocks_.find(block);
    return found == blocks_.end() ? 0 : found->second ? 1 : 2;
  };
  const int first = kind(offset / kBlock);
  std::uint64_t end = align_down(offset, kBlock) + kBlock;
  while (end < offset + length && kind(end / kBlock) == first) end += kBlock;
  const bool bottom = first == 0 && below_ == nullptr;
  done(0, {.length = std::min(length, end - offset),
           .present = first != 0 || bottom,
           .zero = first == 2 || bottom,
           .data = first == 1});
}

void Overlay::resize_to(std::uint64_t size, Preallocation, core::BlockCompletion done) {
  if (size < size_) {
    std::erase_if(blocks_, [&](const auto& block) { return block.first * kBlock >= size; });
    below_size_ = std::min(below_size_, size);
    if (const auto last = blocks_.find(size / kBlock); last != blocks_.end() && last->second)
      std::memset(last->second.get() + size % kBlock, 0, kBlock - size % kBlock);
  }
  size_ = size;
  if (resized_) resized_();
  done(0);
}

void Overlay::close(core::BlockCompletion done) {
  if (below_)
    below_->close(std::move(done));
  else
    done(0);
}

}  // namespace husk::block
