// husk: messages from husk's guest program to husk
#pragma once

#include "../protocol.h"
#include "text.h"

namespace husk::guest {

/// The control port once it is open; before that, what is said goes to the kernel's console.
struct Control {
  Word fd = -1;
};

/// Sends a whole message.
void send(const Control& control, ToHost kind, const void* data, Size size);

/// Says why the guest cannot be set up, sends the end of the kernel's log after it, and waits for the machine's end.
[[noreturn]] void fail(const Control& control, const char* what, const char* object = "", Word error = 0);

/// Waits for husk to end the machine; switches it off itself if that does not happen.
[[noreturn]] void wait_for_end();

/// "No such file or directory" for the errors that happen here; else null.
const char* error_text(Word error);

}  // namespace husk::guest
