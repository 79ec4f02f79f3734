#if canImport(CoreML)
    import CoreML
    import EdgesinkCore
    import Foundation

    /// Where a model may run. Measured nowhere yet: see the device checklist.
    public enum ComputeChoice: String, CaseIterable, Sendable {
        case cpuAndGPU, cpuOnly, cpuAndNeuralEngine, all

        /// The Neural Engine is opt-in: public reports of stateful models on it contradict each other.
        public static let standard = ComputeChoice.cpuAndGPU

        var units: MLComputeUnits {
            switch self {
            case .cpuAndGPU: .cpuAndGPU
            case .cpuOnly: .cpuOnly
            case .cpuAndNeuralEngine: .cpuAndNeuralEngine
            case .all: .all
            }
        }
    }

    /// The bundle's package compiled for this device, once: later loads find it in the caches folder.
    enum CompiledModel {
        private static let folder = "org.edgesink.compiled"

        /// The compiled model; compiles it if no earlier run did.
        static func url(bundle: URL, manifest: Manifest) async throws -> URL {
            let caches = try FileManager.default.url(
                for: .cachesDirectory, in: .userDomainMask, appropriateFor: nil, create: true
            ).appending(path: folder)
            let place = caches.appending(path: "\(manifest.fingerprint).mlmodelc")
            if FileManager.default.fileExists(atPath: place.path) { return place }
            let made: URL
            do {
                made = try await MLModel.compileModel(at: bundle.appending(path: BundleFiles.coreMLPackage))
            } catch {
                throw EdgesinkError(
                    .badBundle, "Core ML cannot compile \(BundleFiles.coreMLPackage) (\(error.localizedDescription))",
                    remedy: "copy or export the bundle again")
            }
            try FileManager.default.createDirectory(at: caches, withIntermediateDirectories: true)
            _ = try? FileManager.default.removeItem(at: place)
            try FileManager.default.moveItem(at: made, to: place)
            return place
        }

        /// Forget what was compiled: for a system update that no longer takes it.
        static func remove(_ manifest: Manifest) throws {
            let caches = try FileManager.default.url(
                for: .cachesDirectory, in: .userDomainMask, appropriateFor: nil, create: false)
            try? FileManager.default.removeItem(
                at: caches.appending(path: "\(folder)/\(manifest.fingerprint).mlmodelc"))
        }

        /// One function of the compiled model.
        static func function(_ name: String, of compiled: URL, _ choice: ComputeChoice) throws -> MLModel {
            let configuration = MLModelConfiguration()
            configuration.computeUnits = choice.units
            configuration.functionName = name
            do {
                return try MLModel(contentsOf: compiled, configuration: configuration)
            } catch {
                throw EdgesinkError(
                    .badBundle, "Core ML cannot load the function '\(name)' (\(error.localizedDescription))",
                    expected: "iOS 18 or macOS 15", remedy: "try other compute units, or export the bundle again")
            }
        }
    }
#endif
