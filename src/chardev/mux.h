// husk: several front ends on one character device, told apart by commands after Ctrl-A
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "chardev/chardev.h"

namespace husk::chardev {

/// Output of all front ends goes to the backing device; input goes to the one in focus. Ctrl-A begins a command:
/// h help, x quit, c next front end, b break, s reserved, Ctrl-A a Ctrl-A for the guest.
///
/// On a terminal, input is taken whether the guest takes it or not, so that the commands work when the guest hangs:
/// what does not fit is dropped, as on a serial line. From elsewhere (a script in a pipe) it waits instead.
class Mux : public Chardev, private Transport {
 public:
  static constexpr std::size_t kInputLimit = 64 * 1024;  ///< waiting input of one front end

  static Result<std::unique_ptr<Mux>> create(std::unique_ptr<Chardev> backing, host::EventLoop& loop,
                                             Environment environment, bool terminal);
  ~Mux() override;

  std::string describe() const override { return backing_->describe() + ", multiplexed"; }
  Result<std::unique_ptr<core::CharBackend>> attach(DomainRunner run, std::string name) override;
  bool ready() const override { return backing_->ready(); }
  void suspend_terminal() override { backing_->suspend_terminal(); }
  void resume_terminal() override { backing_->resume_terminal(); }
  std::vector<std::uint8_t> ring_contents(std::size_t most, bool take) override {
    return backing_->ring_contents(most, take);
  }

 private:
  struct Front {
    std::string name;
    std::shared_ptr<Link> link;
    std::deque<std::uint8_t> input;
  };

  Mux(std::unique_ptr<Chardev> backing, host::EventLoop& loop, Environment environment, bool terminal);
  void output_ready() override { pump_output(); }
  void credit_given() override { pump_input(); }
  void break_sent() override { back_end_->send_break(); }
  bool try_drain() override;
  int blocked_fd() const override { return backing_->blocked_fd(); }

  void received(std::span<const std::uint8_t> data);
  void command(std::uint8_t key);
  void queue_input(std::uint8_t byte);
  void next_focus();
  void say(const std::string& text);
  void pump_output();
  void pump_input();
  void pump_input(Front& to);
  void give_credit();

  // Front ends come and go on any thread (Chardev::attach is thread-safe), so the list is guarded; it never shrinks.
  mutable std::mutex mutex_;
  std::vector<std::shared_ptr<Front>> fronts_;
  std::shared_ptr<Front> front(std::size_t index) const;
  std::size_t front_count() const;

  Environment environment_;
  const bool terminal_;
  const std::shared_ptr<std::atomic<bool>> connected_ = std::make_shared<std::atomic<bool>>(false);
  std::size_t focus_ = 0;
  bool escape_ = false;
  bool pumping_ = false;
  std::string notice_;
  std::unique_ptr<Chardev> backing_;
  std::unique_ptr<core::CharBackend> back_end_;  // before backing_ in destruction
};

}  // namespace husk::chardev
