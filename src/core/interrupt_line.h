// husk: wires: what a device raises, without knowing where it ends
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace husk::core {

/// The receiving end of wires: an interrupt controller, a line router, a test's recorder. `pin` is the sink's own
/// numbering; devices never see it.
class LineSink {
 public:
  virtual ~LineSink() = default;
  /// A change of level, seen as an edge where the pin is edge-triggered.
  virtual void set_pin(unsigned pin, bool level) = 0;
  /// The level as it was before a save: no edge, no interrupt of its own.
  virtual void restore_pin(unsigned pin, bool level) = 0;
};

/// A wire that one device owns. Not connected until given a sink; raising an unconnected wire does nothing.
class InterruptLine {
 public:
  InterruptLine() = default;
  InterruptLine(LineSink& sink, unsigned pin) : sink_(&sink), pin_(pin) {}
  InterruptLine(InterruptLine&& other) noexcept
      : sink_(std::exchange(other.sink_, nullptr)), pin_(other.pin_), level_(other.level_) {}
  InterruptLine& operator=(InterruptLine&& other) noexcept {
    sink_ = std::exchange(other.sink_, nullptr);
    pin_ = other.pin_;
    level_ = other.level_;
    return *this;
  }

  void set(bool level) {
    if (level == level_) return;
    level_ = level;
    if (sink_) sink_->set_pin(pin_, level);
  }
  void pulse() {
    set(true);
    set(false);
  }
  /// For Device::load: takes up a level without an edge.
  void restore_level(bool level) {
    level_ = level;
    if (sink_) sink_->restore_pin(pin_, level);
  }
  bool level() const { return level_; }

 private:
  LineSink* sink_ = nullptr;
  unsigned pin_ = 0;
  bool level_ = false;
};

/// Several wires joined into one (level is the OR of them), as PCI interrupt pins are. Must outlive the shares.
class SharedLine : private LineSink {
 public:
  explicit SharedLine(InterruptLine out) : out_(std::move(out)) {}
  /// A new input; `label` is for inspection.
  InterruptLine share(std::string label) {
    inputs_.push_back({std::move(label), false});
    return InterruptLine(*this, static_cast<unsigned>(inputs_.size() - 1));
  }

 private:
  struct Input {
    std::string label;
    bool level;
  };
  bool any() const {
    for (const Input& input : inputs_)
      if (input.level) return true;
    return false;
  }
  void set_pin(unsigned pin, bool level) override {
    inputs_[pin].level = level;
    out_.set(any());
  }
  void restore_pin(unsigned pin, bool level) override {
    inputs_[pin].level = level;
    out_.restore_level(any());
  }
  InterruptLine out_;
  std::vector<Input> inputs_;
};

/// A message-signalled interrupt: a write of `data` to `address` (Intel SDM vol. 3, 11.11).
struct MsiMessage {
  std::uint64_t address = 0;
  std::uint32_t data = 0;
};
class MsiPort {
 public:
  virtual ~MsiPort() = default;
  /// `requester_id` is the PCI id of the sender (for interrupt remapping).
  virtual void send(std::uint16_t requester_id, MsiMessage message) = 0;
};

}  // namespace husk::core
