// husk: the character devices that move bytes through one front end and a pair of descriptors
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "chardev/chardev.h"
#include "chardev/telnet.h"
#include "host/terminal.h"
#include "host/unique_fd.h"

namespace husk::chardev {

/// What a StreamChardev reads and writes.
struct StreamEnds {
  host::UniqueFd in, out;  ///< different descriptors, if need be by dup(2); either may be absent
  bool socket = false;
  bool telnet = false;
  bool input_end_is_disconnect = false;  ///< else only the input ends
};

/// A Chardev with one front end. Without descriptors, all output is dropped. What differs (how descriptors come and go)
/// is in the derived classes.
class StreamChardev : public Chardev, protected Transport {
 public:
  ~StreamChardev() override;
  Result<std::unique_ptr<core::CharBackend>> attach(DomainRunner run, std::string name) override;
  std::string describe() const override { return description_; }
  /// For a front end on the loop's own thread, which gathers output itself.
  void set_immediate() { link_->set_immediate(); }

 protected:
  StreamChardev(host::EventLoop& loop, std::string id, std::string description, Environment environment);
  static constexpr std::uint64_t kLastWordsNs = 500'000'000;

  /// Begins to use descriptors.
  void open(StreamEnds ends);
  /// Drops them; then calls disconnected().
  void close_ends();
  /// The peer is gone, and open() may be called again, now or later.
  virtual void disconnected() {}
  /// Output that goes nowhere else; returns how much is taken. For devices without descriptors.
  virtual void absorb(std::span<const std::uint8_t>) {}
  bool has_ends() const { return ends_.has_value(); }
  /// Whether queued output is kept while there are no descriptors.
  void set_absorbs() { absorbs_ = true; }
  void apply_discard();
  void warn(const std::string& text);
  bool try_drain() override;

  std::shared_ptr<Link> link_;
  std::string description_;

 private:
  friend Status open_log(StreamChardev&, const Spec&);
  void output_ready() override { pump(); }
  void credit_given() override { read_input(); }
  int blocked_fd() const override { return ends_ && ends_->out ? ends_->out.get() : -1; }

  void pump();
  std::size_t transmit(std::span<const std::uint8_t> data);
  /// How much went out; 0 if it would block; nothing if the output is gone.
  std::optional<std::size_t> send(std::span<const std::uint8_t> data);
  void output_lost();
  bool send_pending();
  void wait_writable();
  void read_input();
  bool deliver_held();
  void pause_input();
  void input_watch_event();
  bool watch_input(host::EventLoop::Events interest);
  void wait_readable();
  void input_ended();
  void log_output(std::span<const std::uint8_t> data);

  Environment environment_;
  std::optional<StreamEnds> ends_;
  std::uint64_t generation_ = 0;  // counts open() calls, so that posted work for older descriptors is dropped
  host::EventLoop::Watch in_watch_, out_watch_;
  bool output_failed_ = false;
  bool input_done_ = false;
  bool hung_up_ = false;  // the peer left while the device took no input
  TelnetDecoder telnet_;
  std::vector<std::uint8_t> held_;     // input read, but not taken when the device had lowered its credit
  std::vector<std::uint8_t> pending_;  // protocol bytes that must go before any data
  bool absorbs_ = false;
  bool pumping_ = false;
  host::UniqueFd log_;
  bool log_failed_ = false;
  const std::shared_ptr<char> life_ = std::make_shared<char>();  // expires with this object, for posted functions
};

/// The concrete devices; `spec.kind` must be of the matching type.
Result<std::unique_ptr<StreamChardev>> create_stream(host::EventLoop& loop, const Spec& spec, Environment environment);

/// Gives the device its log file, if the spec has one.
Status open_log(StreamChardev& device, const Spec& spec);

}  // namespace husk::chardev
