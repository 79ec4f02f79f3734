import Foundation

/// What this process holds of memory, and what it may still take.
public enum MemoryGauge {
    /// Bytes that count against this process: the physical footprint on Apple systems (what a phone ends an app for),
    /// the resident set on Linux; nil where it cannot be read.
    public static func footprintBytes() -> Int? {
        #if canImport(Darwin)
            var info = task_vm_info_data_t()
            var count = mach_msg_type_number_t(
                MemoryLayout<task_vm_info_data_t>.size / MemoryLayout<integer_t>.size)
            let result = withUnsafeMutablePointer(to: &info) { pointer in
                pointer.withMemoryRebound(to: integer_t.self, capacity: Int(count)) {
                    task_info(mach_task_self_, task_flavor_t(TASK_VM_INFO), $0, &count)
                }
            }
            return result == KERN_SUCCESS ? Int(info.phys_footprint) : nil
        #else
            guard let text = try? String(contentsOfFile: "/proc/self/statm", encoding: .utf8) else { return nil }
            return text.split(separator: " ").dropFirst().first.flatMap { Int($0) }.map { $0 * pageBytes }
        #endif
    }

    /// Bytes that the system still grants this process before it ends it; nil where there is no such limit.
    public static func headroomBytes() -> Int? {
        #if os(iOS)
            let bytes = os_proc_available_memory()
            return bytes > 0 ? bytes : nil
        #else
            return nil
        #endif
    }

    #if !canImport(Darwin)
        private static let pageBytes = Int(sysconf(Int32(_SC_PAGESIZE)))
    #endif
}
