#pragma once

#include <dlfcn.h>

#include <cstdint>
#include <stdexcept>

namespace tap::bindings {

/// The cudaStream_t on which torch enqueues work for the device. Its getter is part of the stable
/// ABI but lives in libtorch_cuda, which a CPU build of torch does not have: so it is looked up in
/// the libraries already loaded and not linked, and one tap_ext loads in either build.
inline void* current_cuda_stream(int32_t device_index) {
  using Getter = int32_t (*)(int32_t device_index, void** stream);
  static const Getter getter = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    void* symbol = library ? dlsym(library, "aoti_torch_get_current_cuda_stream") : nullptr;
    return reinterpret_cast<Getter>(symbol);
  }();
  void* stream = nullptr;
  if (getter == nullptr || getter(device_index, &stream) != 0) {
    throw std::runtime_error(
        "tap_ext: torch's current CUDA stream must be known to launch a kernel, got none from "
        "libtorch_cuda.so; is this a CUDA build of torch?");
  }
  return stream;
}

}  // namespace tap::bindings
