// husk: the raw format: a node's bytes as they are, or a window of them
#include "block/raw.h"

#include <algorithm>
#include <cerrno>

#include "base/bits.h"

namespace husk::block {
namespace {

/// True if a write near the start can put a format's magic number there. Only that of qcow2 is looked for in files.
bool looks_like_a_format(const core::BlockRequest& request) {
  constexpr std::uint8_t kMagic[] = {'Q', 'F', 'I', 0xfb};
  std::uint64_t at = request.offset;
  for (const core::BlockSpan span : request.spans) {
    for (const std::uint8_t byte : span) {
      if (at >= 4) return true;
      if (byte != kMagic[at++]) return false;
    }
  }
  return true;
}

}  // namespace

Result<std::unique_ptr<Raw>> Raw::open(std::unique_ptr<Node> file, const RawOptions& options) {
  const std::uint64_t whole = align_up<std::uint64_t>(file->info().size, 512);
  if (options.offset > whole)
    return fail("the window of '{}' starts at {}, beyond its end at {}", file->name(), options.offset, whole);
  const std::uint64_t size = options.size.value_or(whole - options.offset);
  if (size > whole - options.offset)
    return fail("the window of '{}' ends at {} + {}, beyond its end at {}", file->name(), options.offset, size, whole);
  std::unique_ptr<Raw> raw(new Raw(std::move(file), options));
  raw->size_ = size;
  return raw;
}

core::BlockInfo Raw::info() const {
  core::BlockInfo info = file_->info();
  info.size = size_;
  return info;
}

void Raw::submit(core::BlockRequest request) {
  if (request.op != core::BlockOp::flush) {
    if (!range_within(request.offset, request.length, size_)) return request.completion(EINVAL);
    if (options_.guessed && request.op == core::BlockOp::write && request.offset < 4 && looks_like_a_format(request))
      return request.completion(EPERM);
    request.offset += options_.offset;
  }
  file_->submit(std::move(request));
}

void Raw::status(std::uint64_t offset, std::uint64_t length, StatusDone done) {
  if (offset >= size_) return done(EINVAL, {});
  length = std::min(length, size_ - offset);
  file_->status(offset + options_.offset, length, std::move(done));
}

void Raw::resize_to(std::uint64_t size, Preallocation preallocation, core::BlockCompletion done) {
  if (options_.size) return done(ENOTSUP);
  if (size > INT64_MAX - options_.offset) return done(EFBIG);
  file_->resize_to(size + options_.offset, preallocation, [this, size, done = std::move(done)](int error) mutable {
    if (error == 0) {
      size_ = align_up<std::uint64_t>(size, 512);
      if (resized_) resized_();
    }
    done(error);
  });
}

}  // namespace husk::block
