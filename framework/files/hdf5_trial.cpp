#include "framework/files/hdf5_trial.h"

#include <c10/util/StringUtil.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <vector>

#include "framework/errors/error.h"
#include "framework/files/file_descriptor.h"
#include "framework/files/hdf5_library.h"

namespace regroup::hdf5 {
namespace {

constexpr rlim_t kMostSeconds = 20;              // of the child's processor time
constexpr size_t kMostAttributeBytes = 1 << 26;  // more is not read

/// Closes an identifier. The child has only its own thread, and must not touch the library's lock:
/// the parent's thread holds it.
struct Closing {
  ~Closing() {
    if (id >= 0) close(id);
  }
  hid_t id;
  herr_t (*close)(hid_t);
};

herr_t read_attribute(hid_t object, const char* name, const H5A_info_t*, void*) {
  const Closing attribute{H5Aopen(object, name, H5P_DEFAULT), H5Aclose};
  const Closing type{H5Aget_type(attribute.id), H5Tclose};
  const Closing memory_type{H5Tget_native_type(type.id, H5T_DIR_DEFAULT), H5Tclose};
  const Closing space{H5Aget_space(attribute.id), H5Sclose};
  const auto count = H5Sget_simple_extent_npoints(space.id);
  const size_t size = H5Tget_size(memory_type.id);
  if (count <= 0 || size == 0 || static_cast<size_t>(count) > kMostAttributeBytes / size) return 0;
  std::vector<char> values(static_cast<size_t>(count) * size);
  H5Aread(attribute.id, memory_type.id, values.data());
  return 0;
}

void read_dataset(hid_t dataset) {
  const Closing type{H5Dget_type(dataset), H5Tclose};
  const Closing space{H5Dget_space(dataset), H5Sclose};
  const Closing properties{H5Dget_create_plist(dataset), H5Pclose};
  H5Dget_storage_size(dataset);
  hsize_t n_chunks = 0;
  if (H5Pget_layout(properties.id) == H5D_CHUNKED) {
    H5Dget_num_chunks(dataset, space.id, &n_chunks);
  }
}

herr_t read_object(hid_t file, const char* name, const H5O_info_t* info, void*) {
  const Closing object{H5Oopen(file, name, H5P_DEFAULT), H5Oclose};
  if (object.id < 0) return 0;
  if (info->type == H5O_TYPE_DATASET) read_dataset(object.id);
  H5Aiterate2(object.id, H5_INDEX_NAME, H5_ITER_INC, nullptr, read_attribute, nullptr);
  return 0;
}

void read_structure(const std::filesystem::path& file) {
  const Closing access{H5Pcreate(H5P_FILE_ACCESS), H5Pclose};
  H5Pset_file_locking(access.id, false, true);
  const Closing opened{H5Fopen(file.c_str(), H5F_ACC_RDONLY, access.id), H5Fclose};
  if (opened.id < 0) return;
  H5Ovisit2(opened.id, H5_INDEX_NAME, H5_ITER_INC, read_object, nullptr, H5O_INFO_BASIC);
}

/// Lets the kernel end this process silently when it crashes, takes too long or is interrupted.
void prepare_to_die() {
  for (const int end : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGXCPU, SIGINT, SIGTERM}) {
    std::signal(end, SIG_DFL);
  }
  const rlimit no_core{0, 0}, time{kMostSeconds, kMostSeconds};
  setrlimit(RLIMIT_CORE, &no_core);
  setrlimit(RLIMIT_CPU, &time);
  const FileDescriptor nothing("/dev/null", O_WRONLY);
  dup2(nothing.value(), STDOUT_FILENO);
  dup2(nothing.value(), STDERR_FILENO);
}

[[noreturn]] void cannot(const std::filesystem::path& file, const char* action) {
  throw Error(file.string(),
              c10::str("cannot be tried in a child process: ", action, ": ", std::strerror(errno)),
              "Free memory, or allow more processes (ulimit -u).");
}

}  // namespace

void require_survives_reading(const std::filesystem::path& file) {
  // A byte in the pipe says that the child came to its end: unlike the exit status it also arrives
  // where SIGCHLD is ignored.
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) cannot(file, "pipe");
  const FileDescriptor read_end(ends[0]);
  FileDescriptor write_end(ends[1]);
  const pid_t child = fork();
  if (child < 0) cannot(file, "fork");
  if (child == 0) {
    prepare_to_die();
    read_structure(file);
    write_all(write_end.value(), "!");
    _exit(0);
  }
  write_end = FileDescriptor();
  char byte = 0;
  ssize_t received = 0;
  while ((received = read(read_end.value(), &byte, 1)) < 0 && errno == EINTR) {
  }
  while (waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
  }
  if (received == 1) return;
  throw Error(file.string(), "is damaged: the HDF5 library crashes on it or reads without end",
              "Get the file again, or write it again.");
}

}  // namespace regroup::hdf5
