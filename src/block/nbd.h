// husk: an export of an NBD server as a block node, by libnbd
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "block/context.h"
#include "block/node.h"

struct nbd_handle;

namespace husk::block {

struct NbdOptions {
  std::string address;  ///< nbd://host[:port]/export, nbd+unix:///export?socket=path, nbd:host:port[:exportname=x],
                        ///< nbd:unix:path[...]
  bool read_only = false;
  bool writethrough = false;
  /// When the connection is lost, requests wait this long for a new one; 0: they fail at once (and later ones try
  /// anew).
  std::uint64_t reconnect_ns = 0;
};

class Nbd final : public Node {
 public:
  static Result<std::unique_ptr<Nbd>> open(Context& context, const NbdOptions& options);
  ~Nbd() override;

  const std::string& name() const override { return options_.address; }
  std::string_view driver() const override { return "nbd"; }
  core::BlockInfo info() const override;
  void submit(core::BlockRequest request) override;
  void drain(std::move_only_function<void()> done) override;
  void status(std::uint64_t offset, std::uint64_t length, StatusDone done) override;
  void resize_to(std::uint64_t, Preallocation, core::BlockCompletion done) override;
  void close(core::BlockCompletion done) override;

 private:
  struct Work;
  Nbd(Context& context, NbdOptions options);
  Status connect();
  void poll();
  void check_connection();
  void lost();
  void retry_connecting();
  void issue(Work& work);
  void finish(Work& work, int error);
  void fail_waiting(int error);

  Context& context_;
  NbdOptions options_;
  std::string uri_;
  nbd_handle* handle_ = nullptr;
  bool ready_ = false;
  bool was_ready_ = false;
  std::string connect_error_;
  host::EventLoop::Watch watch_;
  host::EventLoop::Timer retry_, deadline_;
  int watched_fd_ = -1;
  std::uint64_t size_ = 0;
  bool server_read_only_ = false, can_trim_ = false, can_zero_ = false, can_flush_ = false, can_fua_ = false;
  std::list<std::unique_ptr<Work>> works_;
  bool connecting_ = false;
  std::vector<std::move_only_function<void()>> drained_;
};

/// The URI that libnbd takes for what QEMU's users write.
std::string nbd_uri(const std::string& address);

}  // namespace husk::block
