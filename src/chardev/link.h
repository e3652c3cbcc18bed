// husk: the bounded, thread-safe passage between a device's thread and a character device's event loop
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>

#include "core/backends.h"
#include "host/event_loop.h"

namespace husk::chardev {

/// Calls a function with a device's lock domain held: usually
/// `[&domain](const auto& f) { mem::DomainGuard guard(&domain); f(); }`. An empty one calls it as it is.
using DomainRunner = std::function<void(const std::function<void()>&)>;

/// What moves bytes between a Link and the world. All calls on the loop's thread, without the device's lock.
class Transport {
 public:
  virtual ~Transport() = default;
  /// There is output in the link.
  virtual void output_ready() = 0;
  /// The device takes input again, after Link::want_credit().
  virtual void credit_given() = 0;
  virtual void break_sent() {}
};

/// The output queue, input credit and callbacks of one front end.
///
/// A device's write copies into the queue and, at most once in kCoalesceNs, wakes the loop: a first byte goes out at
/// once, and a guest that prints byte by byte costs one system call a millisecond, not one a byte.
class Link : public std::enable_shared_from_this<Link> {
 public:
  static constexpr std::size_t kCapacity = 64 * 1024;
  static constexpr std::size_t kUrgent = 8 * 1024;  ///< that much is worth a wake-up before the time is over
  static constexpr std::uint64_t kCoalesceNs = 1'000'000;

  enum class Pace {
    coalesce,   ///< for devices on other threads
    immediate,  ///< for users on the loop's thread
  };
  static std::shared_ptr<Link> create(host::EventLoop& loop, Transport& transport, Pace pace);

  /// A new device end; nothing if there is one already. It may outlive the link's transport.
  std::unique_ptr<core::CharBackend> attach(DomainRunner run);
  bool attached() const;
  void set_immediate() { pace_ = Pace::immediate; }

  // What follows: the transport's side, on the loop's thread.

  /// The oldest output, as much as lies together; empty if there is none.
  std::span<const std::uint8_t> output() const;
  /// Removes `count` bytes of it; makes room, of which the device hears if it waits.
  void consume(std::size_t count);
  /// All output is consumed: wake again when there is more. Every Transport::output_ready() must end in this, or in
  /// waiting to go on consuming.
  void idle();
  /// Hands over as much as there is credit for; returns how much.
  std::size_t deliver(std::span<const std::uint8_t> data);
  std::size_t credit() const;
  /// Asks for credit_given(). Returns false if there is credit already (and then does not ask).
  bool want_credit();
  /// Tells the device of a peer that came or went, if that is news.
  void set_connected(bool connected);
  bool connected() const { return connected_; }
  /// While set, what a device writes is dropped and what is queued is forgotten.
  void set_discard(bool discard);
  void deliver_break();
  /// The transport is gone: from now on everything is dropped.
  void close();

 private:
  struct Attachment;
  class FrontEnd;

  Link(host::EventLoop& loop, Transport& transport, Pace pace) : loop_(&loop), transport_(&transport), pace_(pace) {}
  std::size_t write(std::span<const std::uint8_t> data);
  void post_output();
  void post_credit(const std::shared_ptr<Attachment>& attachment);
  void window_over();
  std::shared_ptr<Attachment> attachment() const;
  /// Calls `function(callbacks)` under the device's domain, if there is a device.
  void call(const std::function<void(Attachment&)>& function);

  // Loop thread only.
  host::EventLoop* loop_;
  Transport* transport_;
  Pace pace_;
  host::EventLoop::Timer window_;
  bool connected_ = false;

  mutable std::mutex mutex_;
  // Guarded by mutex_; the bytes between head_ and tail_ are read by the loop without it.
  std::unique_ptr<std::uint8_t[]> ring_;
  std::uint64_t head_ = 0;  // consumed so far
  std::uint64_t tail_ = 0;  // written so far
  enum class Wake { idle, scheduled, window } wake_ = Wake::idle;
  bool wants_room_ = false;
  bool moved_ = false;  // something went out since idle()
  bool discard_ = false;
  bool closed_ = false;
  std::shared_ptr<Attachment> attachment_;
};

}  // namespace husk::chardev
