// husk: the bounded, thread-safe passage between a device's thread and a character device's event loop
#include "chardev/link.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"

namespace husk::chardev {

/// One device's stay at a link, an object of its own so that the loop can hold on to it while the device goes.
struct Link::Attachment {
  DomainRunner run;
  std::atomic<std::size_t> credit{0};
  std::atomic<bool> credit_wanted{true};
  // Guarded by the device's domain.
  core::CharBackend::Callbacks callbacks;
  bool alive = true;

  void locked(const std::function<void()>& function) const {
    if (run)
      run(function);
    else
      function();
  }
};

/// The device's end.
class Link::FrontEnd : public core::CharBackend {
 public:
  FrontEnd(std::shared_ptr<Link> link, std::shared_ptr<Attachment> attachment)
      : link_(std::move(link)), attachment_(std::move(attachment)) {}
  ~FrontEnd() override {
    attachment_->locked([this] {
      attachment_->alive = false;
      attachment_->callbacks = {};
    });
    const std::lock_guard guard(link_->mutex_);
    if (link_->attachment_ == attachment_) link_->attachment_.reset();
  }

  std::size_t write(std::span<const std::uint8_t> data) override { return link_->write(data); }

  void set_callbacks(Callbacks callbacks) override {
    attachment_->callbacks = std::move(callbacks);
    // A device that comes late hears that the peer is there already.
    post([](Link& link, Attachment& attachment) {
      if (link.connected_ && attachment.callbacks.connection) attachment.callbacks.connection(true);
    });
  }

  void set_read_credit(std::size_t bytes) override {
    attachment_->credit.store(bytes);
    if (bytes > 0 && attachment_->credit_wanted.exchange(false)) link_->post_credit(attachment_);
  }

  void send_break() override {
    const std::lock_guard guard(link_->mutex_);
    if (link_->closed_) return;
    link_->loop_->post([weak = std::weak_ptr(link_)] {
      if (const auto link = weak.lock(); link && link->transport_) link->transport_->break_sent();
    });
  }

 private:
  template <class Function>
  void post(Function function) {
    const std::lock_guard guard(link_->mutex_);
    if (link_->closed_) return;
    link_->loop_->post([weak = std::weak_ptr(link_), attachment = attachment_, function] {
      const auto link = weak.lock();
      // Not attached any more: the domain may be gone with the device.
      if (!link || link->attachment() != attachment) return;
      attachment->locked([&] {
        if (attachment->alive) function(*link, *attachment);
      });
    });
  }

  std::shared_ptr<Link> link_;
  std::shared_ptr<Attachment> attachment_;
};

std::shared_ptr<Link> Link::create(host::EventLoop& loop, Transport& transport, Pace pace) {
  std::shared_ptr<Link> link(new Link(loop, transport, pace));
  link->window_ = loop.make_timer([weak = std::weak_ptr(link)] {
    if (const auto self = weak.lock()) self->window_over();
  });
  return link;
}

std::unique_ptr<core::CharBackend> Link::attach(DomainRunner run) {
  const std::lock_guard guard(mutex_);
  if (attachment_) return nullptr;
  attachment_ = std::make_shared<Attachment>();
  attachment_->run = std::move(run);
  return std::make_unique<FrontEnd>(shared_from_this(), attachment_);
}

bool Link::attached() const {
  const std::lock_guard guard(mutex_);
  return attachment_ != nullptr;
}

std::shared_ptr<Link::Attachment> Link::attachment() const {
  const std::lock_guard guard(mutex_);
  return attachment_;
}

void Link::call(const std::function<void(Attachment&)>& function) {
  const std::shared_ptr<Attachment> device = attachment();
  if (!device) return;
  device->locked([&] {
    if (device->alive) function(*device);
  });
}

std::size_t Link::write(std::span<const std::uint8_t> data) {
  const std::lock_guard guard(mutex_);
  if (closed_ || discard_ || data.empty()) return data.size();
  if (!ring_) ring_ = std::make_unique_for_overwrite<std::uint8_t[]>(kCapacity);
  const std::size_t taken = std::min<std::size_t>(data.size(), kCapacity - static_cast<std::size_t>(tail_ - head_));
  const std::size_t at = tail_ % kCapacity;
  const std::size_t first = std::min(taken, kCapacity - at);
  std::memcpy(ring_.get() + at, data.data(), first);
  std::memcpy(ring_.get(), data.data() + first, taken - first);
  tail_ += taken;
  if (taken < data.size()) wants_room_ = true;
  if (wake_ == Wake::idle || (wake_ == Wake::window && tail_ - head_ >= kUrgent)) post_output();
  return taken;
}

/// With mutex_ held.
void Link::post_output() {
  wake_ = Wake::scheduled;
  loop_->post([weak = weak_from_this()] {
    if (const auto self = weak.lock(); self && self->transport_) self->transport_->output_ready();
  });
}

void Link::post_credit(const std::shared_ptr<Attachment>& device) {
  const std::lock_guard guard(mutex_);
  if (closed_) return;
  loop_->post([weak = weak_from_this(), device] {
    const auto self = weak.lock();
    if (self && self->transport_ && self->attachment() == device) self->transport_->credit_given();
  });
}

std::span<const std::uint8_t> Link::output() const {
  const std::lock_guard guard(mutex_);
  const std::size_t at = head_ % kCapacity;
  const std::size_t length = std::min<std::size_t>(static_cast<std::size_t>(tail_ - head_), kCapacity - at);
  return {ring_.get() + at, length};
}

void Link::consume(std::size_t count) {
  bool tell = false;
  {
    const std::lock_guard guard(mutex_);
    // set_discard() may have emptied the queue since output() was called.
    head_ += std::min<std::uint64_t>(count, tail_ - head_);
    moved_ = true;
    // Not at the first free byte: a device woken for each of them would run once a byte.
    if (wants_room_ && kCapacity - (tail_ - head_) >= kCapacity / 4) tell = std::exchange(wants_room_, false);
  }
  if (tell)
    call([](Attachment& device) {
      if (device.callbacks.writable) device.callbacks.writable();
    });
}

void Link::idle() {
  const std::lock_guard guard(mutex_);
  if (tail_ != head_) {  // written since the transport looked
    post_output();
  } else if (pace_ == Pace::immediate || closed_ || !std::exchange(moved_, false)) {
    wake_ = Wake::idle;
  } else {
    wake_ = Wake::window;
    window_.arm_after(kCoalesceNs);
  }
}

void Link::window_over() {
  {
    const std::lock_guard guard(mutex_);
    if (wake_ != Wake::window) return;
    if (tail_ == head_) {
      wake_ = Wake::idle;
      return;
    }
    wake_ = Wake::scheduled;
  }
  if (transport_) transport_->output_ready();
}

std::size_t Link::deliver(std::span<const std::uint8_t> data) {
  std::size_t delivered = 0;
  call([&](Attachment& device) {
    const std::size_t credit_now = device.credit.load();
    delivered = std::min(data.size(), credit_now);
    if (delivered == 0) return;
    device.credit.store(credit_now - delivered);
    // The device usually gives new credit from inside this call.
    if (device.callbacks.received) device.callbacks.received(data.first(delivered));
  });
  return delivered;
}

std::size_t Link::credit() const {
  const auto device = attachment();
  return device ? device->credit.load() : 0;
}

bool Link::want_credit() {
  const auto device = attachment();
  if (!device) return true;  // a new attachment wants credit from the start
  device->credit_wanted.store(true);
  // The device may have given credit just before it could see the wish; then either side may take it back.
  return device->credit.load() == 0 || !device->credit_wanted.exchange(false);
}

void Link::set_connected(bool connected) {
  if (connected_ == connected) return;
  connected_ = connected;
  call([connected](Attachment& device) {
    if (device.callbacks.connection) device.callbacks.connection(connected);
  });
}

void Link::set_discard(bool discard) {
  bool tell = false;
  {
    const std::lock_guard guard(mutex_);
    discard_ = discard;
    if (discard) {
      head_ = tail_;
      tell = std::exchange(wants_room_, false);
      wake_ = Wake::idle;
    }
  }
  if (tell)
    call([](Attachment& device) {
      if (device.callbacks.writable) device.callbacks.writable();
    });
}

void Link::deliver_break() {
  call([](Attachment& device) {
    if (device.callbacks.break_received) device.callbacks.break_received();
  });
}

void Link::close() {
  transport_ = nullptr;
  const std::lock_guard guard(mutex_);
  closed_ = true;
  head_ = tail_;
  window_ = {};
}

}  // namespace husk::chardev
