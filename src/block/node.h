// husk: a node of the block graph: a file, a format over a file, or a filter over a node
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "core/block_backend.h"

namespace husk::block {

/// What one layer knows of a range.
struct Extent {
  std::uint64_t length = 0;  ///< bytes from the asked offset that are all alike; at least 1
  bool present = false;  ///< this layer decides the content; false: the backing does (or it is zeroes at the bottom)
  bool zero = false;     ///< reads as zeroes
  bool data = false;     ///< takes space that holds data
  bool compressed = false;
  std::optional<std::uint64_t> host_offset{};  ///< where the data is in the file, if it is there as it reads
};

using StatusDone = std::move_only_function<void(int error, Extent extent)>;

/// Preallocation of space that a file or image grows by.
enum class Preallocation { off, metadata, falloc, full };

/// Everything in the graph. Calls and callbacks on the loop of its Context, as core::BlockBackend says.
///
/// Protocols (file, nbd) are growable(): a read past the end gives zeroes and a write past the end extends, so that
/// formats need not care where the file ends.
class Node : public core::BlockBackend, public core::BlockResizable {
 public:
  /// What it is, for messages and `info`: a file name or URI.
  virtual const std::string& name() const = 0;
  /// "file", "raw", "qcow2", "nbd", ...
  virtual std::string_view driver() const = 0;
  virtual bool growable() const { return false; }

  /// What this layer alone knows of [offset, offset+length); offset must be below the size.
  virtual void status(std::uint64_t offset, std::uint64_t length, StatusDone done) = 0;
  /// Grows with zeroes or cuts. `preallocation` is for the new space only.
  virtual void resize_to(std::uint64_t size, Preallocation preallocation, core::BlockCompletion done) = 0;
  void resize(std::uint64_t size, core::BlockCompletion done) override {
    resize_to(size, Preallocation::off, std::move(done));
  }
  core::BlockResizable* resizable() override { return this; }

  /// The layer below that a range comes from when !Extent::present; the node that stores the data. Null if there is
  /// none.
  virtual Node* backing() { return nullptr; }
  virtual Node* child() { return nullptr; }
  /// Bytes that the store takes on the host (st_blocks), if known.
  virtual std::optional<std::uint64_t> allocated_bytes() { return child() ? child()->allocated_bytes() : std::nullopt; }
  /// Writes what is held in memory, flushes and marks the image clean. Only then may the node be destroyed. Children
  /// are closed too.
  virtual void close(core::BlockCompletion done) = 0;
};

}  // namespace husk::block
