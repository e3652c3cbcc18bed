// husk: the raw format: a node's bytes as they are, or a window of them
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "block/context.h"
#include "block/node.h"

namespace husk::block {

struct RawOptions {
  std::uint64_t offset = 0;             ///< bytes; where the window starts in the file
  std::optional<std::uint64_t> size{};  ///< bytes; without it all that follows, rounded up to 512
  /// The format was a guess: a guest that makes its disk look like another format could have any file of the host read
  /// as its backing file the next time. Such writes get EPERM.
  bool guessed = false;
};

class Raw final : public Node {
 public:
  static Result<std::unique_ptr<Raw>> open(std::unique_ptr<Node> file, const RawOptions& options);

  const std::string& name() const override { return file_->name(); }
  std::string_view driver() const override { return "raw"; }
  core::BlockInfo info() const override;
  void submit(core::BlockRequest request) override;
  void drain(std::move_only_function<void()> done) override { file_->drain(std::move(done)); }
  void begin_batch() override { file_->begin_batch(); }
  void end_batch() override { file_->end_batch(); }
  void set_resized(std::function<void()> resized) override { resized_ = std::move(resized); }
  void status(std::uint64_t offset, std::uint64_t length, StatusDone done) override;
  void resize_to(std::uint64_t size, Preallocation preallocation, core::BlockCompletion done) override;
  Node* child() override { return file_.get(); }
  void close(core::BlockCompletion done) override { file_->close(std::move(done)); }

 private:
  Raw(std::unique_ptr<Node> file, const RawOptions& options) : file_(std::move(file)), options_(options) {}
  std::unique_ptr<Node> file_;
  RawOptions options_;
  std::uint64_t size_ = 0;
  std::function<void()> resized_;
};

}  // namespace husk::block
